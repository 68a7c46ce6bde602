"""The cost of a network as arithmetic on the widths of its channel groups.

One fused multiply-add is one FLOP. A layer's width is a sum over groups (concatenations), each counted as often as
its channels reach the layer (flattening), plus what is fixed; its FLOPs are then positions × kernel × in × out
/ groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.base import Cost, Costs, Levels
from methods.graph.channels import Group
from methods.graph.narrow import is_depthwise
from methods.graph.trace import LayerUse, count_params

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Widths:
    """Affine in the kept channels k: k @ share + fixed; share (n_groups, n_layers), fixed (n_layers,)."""

    share: Floats
    fixed: Floats

    def __call__(self, kept: Floats) -> Floats:
        return kept @ self.share + self.fixed


class WidthCost:
    """FLOPs, params and bytes of any widths.

    Attributes:
        kept: per group, the channels that each of its levels keeps.
        layers: names of the convolutions and linear layers.
        positions: (n_layers,) how often each applies its weights for one input.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[Group], kept: Sequence[Sequence[int]], uses: dict[str, LayerUse]
    ) -> None:
        self.kept = [np.asarray(ladder, dtype=np.float64) for ladder in kept]
        layers = [(name, module) for name, module in network.named_modules() if name in uses]
        self.layers = tuple(name for name, _ in layers)
        self._in, self._out = (_widths(layers, groups, side) for side in ("in", "out"))
        kernel = np.array([_kernel_size(module) / _constant_groups(module) for _, module in layers])
        self.positions = np.array([uses[name].positions for name, _ in layers], dtype=np.float64)
        self._kernel = kernel
        self._per_channel, self._fixed_params = _linear_params(network, groups, {name for name, _ in layers})
        self._biased = np.array([getattr(module, "bias", None) is not None for _, module in layers], dtype=np.float64)
        whole = np.array([group.channels for group in groups], dtype=np.float64)
        # Layers that stay dense may share their weights or compute them from other parameters.
        self._fixed_params += count_params(network) - self._one(whole).params
        self.dense = self._one(whole)

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""
        return self.of_widths(self._channels(levels))

    def widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Channels into and out of every one of `layers`, each (n_allocations, n_layers); into a depthwise one, 1."""
        kept = self._channels(levels)
        return self._in(kept), self._out(kept)

    def _channels(self, levels: Levels) -> Floats:
        kept = np.empty(levels.shape, dtype=np.float64)
        for site, ladder in enumerate(self.kept):
            kept[:, site] = ladder[levels[:, site]]
        return kept

    def of_widths(self, kept: Floats) -> Costs:
        """Costs when group i keeps `kept[:, i]` channels; (n_allocations, n_groups)."""
        out = self._out(kept)
        weights = self._in(kept) * out * self._kernel
        flops = np.rint(weights @ self.positions).astype(np.int64)
        params = weights.sum(1) + out @ self._biased + kept @ self._per_channel + self._fixed_params
        whole = np.rint(params).astype(np.int64)
        return Costs(flops, whole, 4 * whole)

    def _one(self, kept: Floats) -> Cost:
        return Cost(*(int(column[0]) for column in self.of_widths(kept[None])))


def _kernel_size(module: nn.Module) -> int:
    return math.prod(getattr(module, "kernel_size", ()))


def _constant_groups(module: nn.Module) -> int:
    return 1 if is_depthwise(module) else int(getattr(module, "groups", 1))


def _widths(layers: list[tuple[str, nn.Module]], groups: Sequence[Group], side: str) -> _Widths:
    position = {name: i for i, (name, _) in enumerate(layers)}
    share = np.zeros((len(groups), len(layers)))
    for row, group in enumerate(groups):
        for each in group.slots:
            if each.name in position and each.side == side:
                share[row, position[each.name]] += len(each.index) / group.channels
    full = np.array([_full_width(module, side) for _, module in layers], dtype=np.float64)
    channels = np.array([group.channels for group in groups], dtype=np.float64)
    return _Widths(share, full - channels @ share)


def _full_width(module: nn.Module, side: str) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if side == "in" and is_depthwise(module):
        return 1  # each filter sees one channel, however many there are
    return int(getattr(module, f"{side}_channels"))


def _linear_params(network: nn.Module, groups: Sequence[Group], layers: set[str]) -> tuple[Floats, float]:
    """Parameters outside convolutions and linear layers: so many per kept channel, so many fixed."""
    owned = {
        id(parameter)
        for name in layers
        for parameter in (network.get_submodule(name).weight, getattr(network.get_submodule(name), "bias", None))
        if parameter is not None
    }
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters())
    per_channel = np.zeros(len(groups))
    total = sum(parameter.numel() for parameter in network.parameters() if id(parameter) not in owned)
    for row, group in enumerate(groups):
        for each in group.slots:
            if each.name in layers:
                continue
            size = _size_per_channel(modules, parameters, each.name, each.dim)
            per_channel[row] += size * len(each.index) / group.channels
    fixed = total - float(per_channel @ np.array([group.channels for group in groups], dtype=np.float64))
    return per_channel, fixed


def _size_per_channel(
    modules: dict[str, nn.Module], parameters: dict[str, nn.Parameter], name: str, dim: int | None
) -> int:
    """Parameters that go with one channel of a norm or PReLU (its own parameters) or of a bare parameter."""
    if dim is not None:
        return parameters[name].numel() // parameters[name].shape[dim]
    own = list(modules[name].parameters(recurse=False))
    return sum(parameter.numel() // parameter.shape[-1] for parameter in own)
