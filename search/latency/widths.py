"""Cost models that know the widths of layers: what predictions of latency are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.base import Compressor, Levels
from models.errors import UserError

Floats = npt.NDArray[np.float64]
OTHER_TARGETS = "ask for FLOPs, parameters or bytes, whose networks are measured when they are exported, or "


@runtime_checkable
class Widths(Protocol):
    """A cost model that knows the widths of layers."""

    network: nn.Module
    """The dense network, in which all layers have their greatest widths."""
    layers: tuple[str, ...]
    """Their names there."""
    ladders: Sequence[Floats]

    def layer_widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Channels into and out of every layer, each (n_allocations, n_layers)."""

    def position_shares(self, levels: Levels) -> Floats:
        """The share of its positions that each layer still works at, (n_allocations, n_layers); 0 for an absent one."""

    def written_elements(self, levels: Levels) -> Floats:
        """The activations that all layers write, (n_allocations,)."""


def checked_widths(compressor: Compressor, *, instead: str = OTHER_TARGETS) -> Widths:
    """The method's cost model, which tells the widths of layers.

    Args:
        instead: what would do besides another method, for the message: `ask for FLOPs, or `.

    Raises:
        UserError: the method makes tables of kernels, which take as long as dense ones, or its costs tell no widths.
    """
    cost = compressor.cost
    if not compressor.info.plain_layers:
        raise UserError(
            f"{compressor.info.name} keeps tables of kernels and runs them as dense ones, so that no latency is gained "
            f"by them; {instead}take a method that only removes channels, e.g. l1"
        )
    if not isinstance(cost, Widths):
        raise UserError(
            f"the times of layers that {compressor.info.name} makes are not predicted; {instead}take one method alone, "
            "e.g. l1 or svd"
        )
    return cost


def least_widths(cost: Widths, last: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    """The smallest widths (in, out), at least 1, that an allocation can give every layer: where its grid begins.

    Args:
        last: the greatest level of every site, (n_sites,).
    """
    every = np.minimum(np.arange(1 + last.max(initial=0))[:, None], last)  # ranks may rise again along a ladder
    inputs, outputs = (np.maximum(side.min(0).round().astype(int), 1).tolist() for side in cost.layer_widths(every))
    return list(zip(inputs, outputs, strict=True))
