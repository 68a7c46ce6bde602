"""Rules for operators that move data: the operator itself, run on the labels, says where they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from methods.graph.flow.call import Call, Planes
from methods.graph.flow.call_readers import Extent
from methods.graph.flow.index_tensors import Pick
from methods.graph.flow.labels import FIXED, compact, varying_dims
from methods.graph.flow.planes import Value, concatenate, join_elements
from models.execution.tensor_leaves import tensor_leaves

_UNWRITTEN = FIXED - 1  # below all labels


def move_elements(call: Call) -> list[Planes]:
    """Pure movement of data is done to the labels by the same operator."""
    leaves, tree = tree_flatten((call.args, call.kwargs))
    moved_at = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    leaf, in_memory = leaves[moved_at], call.name == "as_strided"
    value = call.value_of(leaf)
    results = [list[Tensor]() for _ in call.outputs]
    for plane in value.planes:
        shown = plane.expand(value.shape)
        # as_strided counts steps in memory, which has to lie as the tensor's does.
        leaves[moved_at] = torch.empty_like(leaf, dtype=torch.long).copy_(shown) if in_memory else shown
        args, kwargs = tree_unflatten(leaves, tree)
        for planes, moved in zip(results, _run_on_labels(call.func, args, kwargs), strict=True):
            planes.append(compact(moved))
    return [tuple(planes) for planes in results]


def _run_on_labels(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    try:
        result = func(*args, **kwargs)
    except RuntimeError:  # no kernel for integers (reflection padding); doubles are exact up to 2**53
        leaves, tree = tree_flatten((args, kwargs))
        doubled = [leaf.double() if isinstance(leaf, Tensor) and leaf.dtype == torch.int64 else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(doubled, tree)
        result = func(*args, **kwargs)
    return [tensor.long() for tensor in tensor_leaves(result)]


def pick_elements(call: Call) -> list[Planes]:
    """Entries that indices name. A tensor of indices that the network holds is cut with what its entries pick."""
    results = move_elements(call)
    dim, index = _one_index(call)
    if index is None:
        return results
    for plane in call.value_of(index).planes:
        if varying_dims(plane) != {dim if plane.dim() > 1 else 0}:
            continue
        value = call.value_of(call.args[0])
        # A mask is as long as what it is laid on; other indices are as long as the result.
        is_mask = index.dtype in (torch.bool, torch.uint8)
        for met in value.planes if is_mask else results[0]:
            if dim in varying_dims(met):
                shape = [plane.numel() if d == dim else 1 for d in range(met.dim())]
                call.labels.unite(plane.reshape(shape), met, call.reason)
                if not is_mask:
                    call.picks.append(Pick(plane.reshape(-1), Extent(value, dim, value.shape[dim])))
    return results


def _one_index(call: Call) -> tuple[int, Tensor | None]:
    """The dimension in which a call picks, and the indices; None where they are not those of one dimension."""
    rank = call.args[0].dim()
    if "index" in call.arguments and call.name in ("index_select", "gather"):
        return int(call.arguments["dim"]) % rank, call.arguments["index"]
    indices = call.arguments.get("indices", ())
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    return given[0] if len(given) == 1 and given[0][1].dim() == 1 else (0, None)


def write_elements(call: Call) -> Planes:
    """`copy_`: the data that stood there is gone, but the places are cut as before."""
    places, source = replace(call.value_of(call.args[0]), is_data=False), call.value_of(call.args[1])
    return join_elements(call.labels, [places, source], call.outputs[0].shape, call.reason)


def write_indexed(call: Call) -> Planes:
    """`index_put`: rows of a tensor are written, as pools of several levels are gathered; channels pass as they are."""
    target, source = call.value_of(call.args[0]), call.value_of(call.args[2])
    planes = []
    for plane in source.planes:
        whole = _plane_of_rows(plane, source, target, call.args[1])
        if whole is None:  # rows with channels of their own
            call.labels.pin(plane, call.reason)
        else:
            planes.append(whole)
    written = Value(target.shape, tuple(planes), source.is_data)
    return join_elements(call.labels, [target, written], target.shape, call.reason)


def _plane_of_rows(plane: Tensor, source: Value, target: Value, indices: Sequence[Tensor | None]) -> Tensor | None:
    """The plane of what is written, which must be the same in all rows; None if it is not."""
    picked = [d for d, index in enumerate(indices) if index is not None]
    if len(picked) == 1 and len(source.shape) == len(target.shape) and not varying_dims(plane) & {*picked}:
        return plane  # even where no row is written: other images may write some
    placed = torch.full(target.shape, _UNWRITTEN).index_put(tuple(indices), plane.expand(source.shape))
    whole = placed.amax(_indexed_dims(indices), keepdim=True)
    if (whole == _UNWRITTEN).any() or not ((placed == whole) | (placed == _UNWRITTEN)).all():
        return None
    return compact(whole)


def _indexed_dims(indices: Sequence[Tensor | None]) -> list[int]:
    """The dimensions that an index picks rows of; a mask spans several."""
    dims, dim = list[int](), 0
    for index in indices:
        spanned = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        dims += range(dim, dim + spanned) if index is not None else ()
        dim += spanned
    return dims


def reshape_elements(call: Call) -> Planes:
    """A dimension may be split: which of its parts shrinks is settled when all uses are known (`settle_splits`)."""
    value = call.value_of(call.args[0])
    planes = []
    for plane in value.planes:
        moved = compact(plane.expand(value.shape).reshape(call.outputs[0].shape))
        if len(varying_dims(moved)) > len(varying_dims(plane)):
            call.splits.append(moved)
        planes.append(moved)
    return tuple(planes)


def pad_elements(call: Call) -> Planes:
    """Positions are padded freely; a padded dimension of channels has to keep the channels beside the padding."""
    value = call.value_of(call.args[0])
    pad: list[int] = list(call.args[1])
    padded = {len(value.shape) - 1 - i // 2 for i, amount in enumerate(pad) if amount}
    planes = []
    for plane in value.planes:
        if not varying_dims(plane) & padded:
            planes.append(plane)
            continue
        whole = plane.expand([value.shape[d] if d in padded else size for d, size in enumerate(plane.shape)])
        planes.append(torch.nn.functional.pad(whole, pad, value=FIXED))
    return tuple(planes)


def slice_elements(call: Call) -> list[Planes]:
    """A slice of channels: equal parts of the dimension have to stay equally long, so they are cut alike."""
    value = call.value_of(call.args[0])
    dim = int(call.arguments.get("dim") or 0) % len(value.shape)
    size = value.shape[dim]
    start, length = _sliced_range(call, dim, size)
    if 0 < length < size and size % length == 0 and start % length == 0:
        for plane in value.planes:
            if dim in varying_dims(plane):
                parts = plane.unflatten(dim, (size // length, length))
                call.labels.unite(parts, parts.narrow(dim, 0, 1), call.reason)
    return move_elements(call)


def _sliced_range(call: Call, dim: int, size: int) -> tuple[int, int]:
    """The first index of a slice and its length; the length is `size` for parts that are not equal, or in steps."""
    if call.name == "select":
        return int(call.arguments["index"]) % size, 1
    if call.name == "unbind":
        return 0, 1
    length = call.outputs[0].shape[dim]
    if call.name == "slice":
        in_steps = int(call.arguments.get("step") or 1) != 1
        start = int(call.arguments.get("start") or 0)
        return (start + size if start < 0 else start), size if in_steps else length
    if call.name == "split_with_sizes" and len({output.shape[dim] for output in call.outputs}) > 1:
        return 0, size
    return 0, length


def concatenate_elements(call: Call) -> Planes:
    tensors = [tensor for tensor in call.args[0] if tensor.dim() > 1 or tensor.numel()]
    rank = call.outputs[0].dim()
    dim = int(call.arguments.get("dim") or 0) % rank
    values = [call.value_of(tensor) for tensor in tensors]
    if call.name == "stack":
        values = [_with_dim(value, dim) for value in values]
    return concatenate(call.labels, values, dim, call.reason)


def _with_dim(value: Value, dim: int) -> Value:
    shape = torch.Size((*value.shape[:dim], 1, *value.shape[dim:]))
    return Value(shape, tuple(plane.unsqueeze(dim) for plane in value.planes), value.is_data)


def embed_rows(call: Call) -> Planes:
    weight = call.value_of(call.args[0])
    planes = call.fix(weight.planes, [0])
    rank = call.outputs[0].dim()
    return tuple(plane.reshape((1,) * (rank - 1) + (plane.shape[1],)) for plane in planes)
