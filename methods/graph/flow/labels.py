"""Labels of channels, which of them belong together, and which must stay.

Every dimension of every parameter and buffer has a label for each of its indices. A *plane* is an integer tensor that
says for every element of an activation which label it stems from; an activation has one plane for each independent
way of being cut (channels, tokens). Planes are kept compact: size 1 along the dimensions in which they do not vary.

- `FREE` (0): no label, and none needed: padding of positions, tensors made from shapes alone.
- `FIXED` (-1): data that no parameter's dimension accounts for (an image, a mean over channels): whatever meets it
  element by element has to stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FREE, FIXED = 0, -1
NEW = "new"
"""The dimensions of tensors that code makes (`torch.zeros(1, 64)`), which stand nowhere in the network."""


@dataclass(frozen=True)
class Dimension:
    """The labels `first`, `first + 1`, … of one dimension of a tensor, or of one side of a module."""

    name: str  # of the parameter, buffer or module
    dim: int | str  # of the tensor; "in" or "out" of a module
    first: int
    size: int


def varying_dims(plane: Tensor) -> frozenset[int]:
    """The dimensions along which a compact plane has more than one entry."""
    return frozenset(d for d, size in enumerate(plane.shape) if size > 1)


def compact(plane: Tensor) -> Tensor:
    """The plane with size 1 along every dimension in which it is constant."""
    for d, size in enumerate(plane.shape):
        if size > 1:
            first = plane.narrow(d, 0, 1)
            # An expanded dimension has stride 0: nothing needs to be compared.
            if plane.stride(d) == 0 or bool((plane == first).all()):
                plane = first
    return plane


class Labels:
    """All labels of one trace, the pairs that were united, and the labels that are pinned, with the reason."""

    def __init__(self) -> None:
        self.dimensions: list[Dimension] = []
        self._next = 1
        self._pairs: list[Tensor] = []  # each (n, 2)
        self._pins: list[tuple[Tensor, str]] = []
        self._notes: list[tuple[Tensor, str]] = []

    def add_dimension(self, name: str, dim: int | str, size: int) -> Tensor:
        """New labels for one dimension, (size,)."""
        self.dimensions.append(Dimension(name, dim, self._next, size))
        first, self._next = self._next, self._next + size
        return torch.arange(first, first + size)

    @property
    def number(self) -> int:
        """Labels so far, `FREE` included."""
        return self._next

    def unite(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Labels at the same position belong together; opposite `FIXED` a label is pinned. Broadcasts."""
        if left.shape != right.shape:
            left, right = torch.broadcast_tensors(left, right)
        left, right = left.reshape(-1), right.reshape(-1)
        different = (left != right) & (left != FREE) & (right != FREE)
        if not different.any():
            return
        left, right = left[different], right[different]
        fixed = (left == FIXED) | (right == FIXED)
        if fixed.any():
            self.pin(torch.maximum(left, right)[fixed], reason)
        pairs = torch.stack([left[~fixed], right[~fixed]], 1)
        if len(pairs):
            self._pairs.append(torch.unique(pairs, dim=0))

    def pin(self, labels: Tensor, reason: str) -> None:
        """These labels have to stay."""
        _append_labels(self._pins, labels, reason)

    def note(self, labels: Tensor, reason: str) -> None:
        """Where these labels are measured together; they may go."""
        _append_labels(self._notes, labels, reason)

    def fix(self, plane: Tensor, dims: Iterable[int], reason: str) -> Tensor | None:
        """The plane without variation along `dims`: labels along them belong together.

        Returns:
            The plane, size 1 along `dims`; None if it does not vary any more: its labels are pinned then.
        """
        for d in sorted(varying_dims(plane) & frozenset(dims)):
            # The representative of a line of labels is one that is neither FREE nor, if there is another, FIXED.
            representative = plane.amax(d, keepdim=True)
            fixed = (plane == FIXED).any(d, keepdim=True)
            self.unite(plane, representative, reason)
            if fixed.any():
                representative = torch.where(fixed, FIXED, representative)
            plane = representative
        plane = compact(plane)
        if plane.numel() == 1:
            self.pin(plane.reshape(-1), reason)
            return None
        return plane

    def components(self, more_pairs: Sequence[Tensor] = ()) -> np.ndarray:
        """The component of every label, (number,): labels of one component belong together."""
        pairs = [*self._pairs, *more_pairs]
        if not pairs:
            return np.arange(self.number)
        left, right = torch.cat(pairs).numpy().T
        graph = coo_matrix((np.ones(len(left), dtype=bool), (left, right)), shape=(self.number, self.number))
        return connected_components(graph, directed=False)[1]

    def pinned(self, components: np.ndarray) -> dict[int, str]:
        """The components that have to stay, each with the reason found first."""
        return _first_reasons(self._pins, components)

    def noted(self, components: np.ndarray) -> dict[int, str]:
        """The components that are measured together, each with the first place."""
        return _first_reasons(self._notes, components)


def _append_labels(entries: list[tuple[Tensor, str]], labels: Tensor, reason: str) -> None:
    labels = labels[labels > 0].unique()
    if len(labels):
        entries.append((labels, reason))


def _first_reasons(entries: Iterable[tuple[Tensor, str]], components: np.ndarray) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for labels, reason in entries:
        for component in np.unique(components[labels.numpy()]).tolist():
            reasons.setdefault(component, reason)
    return reasons
