"""Times of layers over grids of widths, interpolated between; how they add up is fitted to whole networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Levels
from search.allocation.budget import Ints

Floats = npt.NDArray[np.float64]
PRIOR_WEIGHT = 0.3  # of what is known of factors beforehand, beside a network's weight of 1
DENSE_WEIGHT = 3.0  # weight of the dense network in the fit: every kept fraction is a share of its time


@dataclass(frozen=True)
class Grid:
    """Times of one layer over widths, for one batch."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    nanoseconds: tuple[tuple[float, ...], ...]
    """(n_inputs, n_outputs)"""

    def least_times(self, second: Grid) -> Grid:
        """The lesser of two measurements of the same layer, width by width."""
        times = np.minimum(np.array(self.nanoseconds), np.array(second.nanoseconds))
        return Grid(self.inputs, self.outputs, tuple(map(tuple, times.tolist())))

    def rising_times(self) -> Grid:
        """No wider layer is faster: noise, and kernels that prefer some widths, would mislead bisections."""
        times = np.maximum.accumulate(np.maximum.accumulate(np.array(self.nanoseconds), axis=0), axis=1)
        return Grid(self.inputs, self.outputs, tuple(map(tuple, times.tolist())))


class GridTimes:
    """Times of several layers, bilinear between the widths of their grids, and constant beyond these."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self._inputs, self._outputs = (
            _pad_axes([getattr(grid, side) for grid in grids]) for side in ("inputs", "outputs")
        )
        self._times = np.zeros((len(grids), self._inputs.shape[1], self._outputs.shape[1]))
        for grid_times, grid in zip(self._times, grids, strict=True):
            table = np.array(grid.nanoseconds)
            grid_times[: table.shape[0], : table.shape[1]] = table

    def __call__(self, inputs: Floats, outputs: Floats) -> Floats:
        """Nanoseconds of every layer at these widths, all (n, n_layers)."""
        low_in, high_in, part_in = _bracket_widths(self._inputs, inputs)
        low_out, high_out, part_out = _bracket_widths(self._outputs, outputs)
        layers = np.arange(len(self._times))
        near = _interpolate(self._times[layers, low_in, low_out], self._times[layers, low_in, high_out], part_out)
        far = _interpolate(self._times[layers, high_in, low_out], self._times[layers, high_in, high_out], part_out)
        return _interpolate(near, far, part_in)


def _interpolate(low: Floats, high: Floats, fraction: Floats) -> Floats:
    return low + fraction * (high - low)


def _pad_axes(axes: Sequence[Sequence[int]]) -> Floats:
    """The axes as one table, (n_layers, longest), with NaN after the last width of each."""
    table = np.full((len(axes), max(map(len, axes), default=1)), np.nan)
    for padded, axis in zip(table, axes, strict=True):
        padded[: len(axis)] = axis
    return table


def _bracket_widths(axes: Floats, widths: Floats) -> tuple[Levels, Levels, Floats]:
    """Indices of the measured widths around each of `widths`, (n, n_layers), and its place between them, 0 to 1."""
    last = (~np.isnan(axes)).sum(1) - 1
    low = np.clip((axes[None] <= widths[..., None]).sum(-1) - 1, 0, np.maximum(last - 1, 0)).astype(np.intp)
    high = np.minimum(low + 1, last)
    layers = np.arange(len(axes))
    distance = axes[layers, high] - axes[layers, low]
    fraction = np.clip((widths - axes[layers, low]) / np.maximum(distance, 1e-9), 0.0, 1.0)
    return low, high, np.where(distance > 0, fraction, 0.0)


def fit_parts(
    features: Floats, measured: Floats, prior: Sequence[float] | None = None, *, has_dense: bool = True
) -> Floats:
    """The non-negative factors of features that come nearest to measured times, by squares of relative errors.

    Args:
        features: (n, n_features), of the dense network first if `has_dense`.
        measured: (n,) nanoseconds of the whole networks.
        prior: what factors are drawn to, with `PRIOR_WEIGHT`. Features grow and fall together, so
            that a few networks alone do not tell which of them it is.
    """
    from scipy.optimize import nnls  # takes a third of a second to import, and plans come by this module

    weight = 1 / measured  # the squares of relative errors are summed: small networks count as much as large ones
    weight[0] *= DENSE_WEIGHT if has_dense else 1
    scale = np.maximum(features.max(0), 1.0)  # nanoseconds, activations and ones, brought to one size
    rows, goals = features / scale * weight[:, None], measured * weight
    if prior is not None:
        shares = PRIOR_WEIGHT * features[0] / scale / measured[0]
        rows = np.concatenate([rows, np.diag(shares)])
        goals = np.concatenate([goals, shares * scale * np.array(prior)])
    parts_per_scale, _ = nnls(rows, goals)
    parts: Floats = parts_per_scale / scale
    return parts


def predict_times(features: Floats, parts: Floats) -> Ints:
    """Whole nanoseconds of networks, at least 1: (n, n_features) -> (n,)."""
    nanoseconds: Ints = np.rint(np.maximum(features @ parts, 1.0)).astype(np.int64)
    return nanoseconds
