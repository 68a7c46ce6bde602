"""The planes of an activation, and how those of several operands are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.graph.flow.labels import FIXED, FREE, Labels, compact, varying_dims


@dataclass(frozen=True)
class Value:
    """What is known of one tensor.

    Attributes:
        shape: of the tensor.
        planes: compact planes of labels, each of the tensor's number of dimensions.
        is_data: whether it holds data; False for a tensor made from shapes alone (zeros, coordinates, noise), whose
            extents follow those of what it meets.
        pending: labels that are pinned, with the reason, as soon as an operator computes with the tensor.
    """

    shape: torch.Size
    planes: tuple[Tensor, ...] = ()
    is_data: bool = True
    pending: tuple[tuple[Tensor, str], ...] = ()


def broadcast_value(value: Value, shape: torch.Size) -> Value:
    """The value with leading dimensions of size 1 up to the rank of `shape`."""
    missing = (1,) * (len(shape) - len(value.shape))
    planes = tuple(plane.reshape(missing + tuple(plane.shape)) for plane in value.planes)
    return Value(torch.Size(missing + tuple(value.shape)), planes, value.is_data)


def match_planes(values: Sequence[Value]) -> list[list[Tensor | None]]:
    """Planes of the operands that describe the same cut: one row per cut, with a plane or None per operand.

    Planes match if they vary along the same dimensions; one that finds no such partner takes one that shares a
    dimension with it (a scale per head beside channels of heads).
    """
    rows: list[list[Tensor | None]] = []
    for position, value in enumerate(values):
        for plane in value.planes:
            dims = varying_dims(plane)
            free = [row for row in rows if row[position] is None]
            row = _first_match(free, dims.__eq__) or _first_match(free, dims.intersection)
            if row is None:
                row = [None] * len(values)
                rows.append(row)
            row[position] = plane
    return rows


def _first_match(
    rows: Sequence[list[Tensor | None]], fits: Callable[[frozenset[int]], object]
) -> list[Tensor | None] | None:
    """The first row with a plane whose varying dimensions fit."""
    for row in rows:
        if any(plane is not None and fits(varying_dims(plane)) for plane in row):
            return row
    return None


def join_elements(labels: Labels, operands: Sequence[Value], shape: torch.Size, reason: str) -> tuple[Tensor, ...]:
    """The planes of an element-wise result: labels that meet belong together.

    Along a dimension in which an operand holds data without labels, the other's labels have to go together, for the
    data has no part to leave.
    """
    values = [broadcast_value(operand, shape) for operand in operands]
    planes = []
    for row in match_planes(values):
        joined = _join_row(labels, row, values, reason)
        if joined is not None:
            planes.append(joined)
    return tuple(planes)


def _join_row(labels: Labels, row: Sequence[Tensor | None], values: Sequence[Value], reason: str) -> Tensor | None:
    blocked = set()
    for plane, value in zip(row, values, strict=True):
        if value.is_data:
            known = frozenset[int]() if plane is None else varying_dims(plane)
            blocked |= {d for d, size in enumerate(value.shape) if size > 1} - known
    joined: Tensor | None = None
    for plane in row:
        if plane is None:
            continue
        if joined is None:
            joined = plane
            continue
        labels.unite(joined, plane, reason)
        joined, partner = torch.broadcast_tensors(joined, plane)
        either_fixed = (joined == FIXED) | (partner == FIXED)
        joined = torch.where(either_fixed, FIXED, torch.where(joined == FREE, partner, joined))
    assert joined is not None
    return labels.fix(joined, blocked & varying_dims(joined), reason)


def concatenate(labels: Labels, values: Sequence[Value], dim: int, reason: str) -> tuple[Tensor, ...]:
    """The planes of tensors put one after another along `dim`."""
    along = [Value(value.shape, tuple(p for p in value.planes if dim in varying_dims(p)), value.is_data)
             for value in values]  # fmt: skip
    across = [Value(value.shape, tuple(p for p in value.planes if dim not in varying_dims(p)), value.is_data)
              for value in values]  # fmt: skip
    planes = []
    for number in range(max((len(value.planes) for value in along), default=0)):
        row = [value.planes[number] if number < len(value.planes) else None for value in along]
        planes.append(_concatenate_row(row, values, dim))
    for row in match_planes(across):
        joined = _join_parts(labels, row, values, reason)
        if joined is not None:
            planes.append(joined)
    return tuple(plane for plane in map(compact, planes) if plane.numel() > 1)


def _concatenate_row(row: Sequence[Tensor | None], values: Sequence[Value], dim: int) -> Tensor:
    present = [plane for plane in row if plane is not None]
    shape = [max(plane.shape[d] for plane in present) for d in range(len(values[0].shape))]
    parts = []
    for plane, value in zip(row, values, strict=True):
        part = torch.tensor(FIXED if value.is_data else FREE) if plane is None else plane
        parts.append(part.expand([value.shape[d] if d == dim else size for d, size in enumerate(shape)]))
    return torch.cat(parts, dim)


def _join_parts(labels: Labels, row: Sequence[Tensor | None], values: Sequence[Value], reason: str) -> Tensor | None:
    """Labels across the dimension of a concatenation (channels of a class token and of patches): they go together."""
    planes = [plane for plane in row if plane is not None]
    joined = planes[0]
    for plane in planes[1:]:
        labels.unite(joined, plane, reason)
        joined = torch.maximum(joined, plane)
    if any(plane is None and value.is_data for plane, value in zip(row, values, strict=True)):
        labels.pin(joined, reason)
        return None
    return joined


def contract(
    labels: Labels,
    left: Value,
    right: Value,
    left_dim: int,
    right_dim: int,
    batch_dims: int,
    reason: str,
) -> None:
    """Unite the labels of two operands along the index that they are summed over.

    Args:
        left_dim, right_dim: the summed dimension of each.
        batch_dims: leading dimensions that both have in common and that are not summed.
    """
    left_planes = _summed_labels(labels, left, left_dim, batch_dims, reason)
    right_planes = _summed_labels(labels, right, right_dim, batch_dims, reason)
    if not left_planes and not right_planes:
        return
    for plane in left_planes or [torch.tensor(FIXED if left.is_data else FREE)]:
        for partner in right_planes or [torch.tensor(FIXED if right.is_data else FREE)]:
            labels.unite(plane, partner, reason)


def _summed_labels(labels: Labels, value: Value, dim: int, batch_dims: int, reason: str) -> list[Tensor]:
    """Planes that vary along the summed dimension, (batch…, summed); variation along the others is united."""
    planes = []
    for plane in value.planes:
        if dim not in varying_dims(plane):
            continue
        others = set(range(batch_dims, plane.dim())) - {dim}
        fixed = labels.fix(plane, others, reason)
        if fixed is not None:
            planes.append(fixed.movedim(dim, -1).reshape(*fixed.shape[:batch_dims], fixed.shape[dim]))
    return planes
