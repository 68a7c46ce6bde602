"""The cost of a network as arithmetic on the widths of its channel groups.

One fused multiply-add is one FLOP. A layer's width is a sum over groups (concatenations), each weighted by how often
its channels reach the layer (flattening), plus a constant. Its FLOPs are positions × kernel × in × out / groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from methods.base import Cost, Costs, Levels
from methods.graph.channels import Group, Slots
from methods.graph.narrow import is_depthwise
from methods.graph.trace import LayerUse, count_params, weight_of

Floats = npt.NDArray[np.float64]
Layer = nn.Module | Tensor  # a convolution or linear module, or a bare weight


@dataclass(frozen=True)
class _AffineWidths:
    """Affine in the kept channels k: k @ share + fixed; share (n_groups, n_layers), fixed (n_layers,)."""

    share: Floats
    fixed: Floats

    def __call__(self, channels: Floats) -> Floats:
        return channels @ self.share + self.fixed


class WidthCost:
    """FLOPs, params and bytes of any widths.

    Attributes:
        ladders: per group, the channels that each of its levels keeps.
        layers: names of the convolutions and linear layers.
        positions: (n_layers,) how often each applies its weights for one input.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        ladders: Sequence[Sequence[int]],
        uses: Mapping[str, LayerUse],
    ) -> None:
        self.ladders = [np.asarray(ladder, dtype=np.float64) for ladder in ladders]
        modules = dict(network.named_modules())
        self.layers = (*(name for name in modules if name in uses), *(name for name in uses if name not in modules))
        layers = [(name, modules.get(name, weight_of(network, name))) for name in self.layers]
        self._in, self._out = (_affine_widths(layers, groups, side) for side in ("in", "out"))
        self._weights = np.array([_weights_per_width(layer) for _, layer in layers])
        self.positions = np.array([uses[name].positions for name in self.layers], dtype=np.float64)
        self._per_channel, self._fixed_params = _linear_params(network, groups, set(self.layers))
        # A parameter that several layers hold counts under its first name alone.
        own = dict(network.named_parameters())
        self._weighted = np.array([name in own or f"{name}.weight" in own for name in self.layers], dtype=np.float64)
        self._biased = np.array([f"{name}.bias" in own for name in self.layers], dtype=np.float64)
        full = np.array([group.channels for group in groups], dtype=np.float64)
        # Weights that are computed from parameters are not counted above; such layers stay dense.
        self._fixed_params += count_params(network) - self._cost_of_widths(full).params
        self.dense = self._cost_of_widths(full)

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""
        return self.of_widths(self._kept_channels(levels))

    def layer_widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Input and output channels of all `layers`, each (n_allocations, n_layers); depthwise ones have one input."""
        channels = self._kept_channels(levels)
        return self._in(channels), self._out(channels)

    def _kept_channels(self, levels: Levels) -> Floats:
        channels = np.empty(levels.shape, dtype=np.float64)
        for site, ladder in enumerate(self.ladders):
            channels[:, site] = ladder[levels[:, site]]
        return channels

    def of_widths(self, channels: Floats) -> Costs:
        """Costs when group i keeps `channels[:, i]` channels, (n_allocations, n_groups)."""
        out = self._out(channels)
        weights = self._in(channels) * out * self._weights
        flops = np.rint(weights @ self.positions).astype(np.int64)
        params = weights @ self._weighted + out @ self._biased + channels @ self._per_channel + self._fixed_params
        rounded = np.rint(params).astype(np.int64)
        return Costs(flops, rounded, 4 * rounded)

    def _cost_of_widths(self, channels: Floats) -> Cost:
        return Cost(*(int(column[0]) for column in self.of_widths(channels[None])))


def _weights_per_width(module: Layer) -> float:
    """Weights of a layer over its input width times its output width: the kernel's area, divided among groups."""
    if isinstance(module, Tensor):
        return math.prod(module.shape[2:])
    area = math.prod(getattr(module, "kernel_size", ()))
    return area / (1 if is_depthwise(module) else int(getattr(module, "groups", 1)))


def _affine_widths(layers: list[tuple[str, Layer]], groups: Sequence[Group], side: str) -> _AffineWidths:
    position = {name: i for i, (name, _) in enumerate(layers)}
    share = np.zeros((len(groups), len(layers)))
    for i, group in enumerate(groups):
        for slots in group.slots:
            if slots.name in position and _side_of(slots) == side:
                # Whole numbers, or fractions where only some of the group's channels reach the layer.
                share[i, position[slots.name]] += len(slots.index) / group.channels
    full = np.array([_full_width(module, side) for _, module in layers], dtype=np.float64)
    channels = np.array([group.channels for group in groups], dtype=np.float64)
    return _AffineWidths(share, full - channels @ share)


def _side_of(slots: Slots) -> str:
    """A bare weight has its outputs along its first dimension, its inputs along the second."""
    return slots.side if slots.dim is None else ("out", "in")[slots.dim] if slots.dim < 2 else ""


def _full_width(module: Layer, side: str) -> int:
    if isinstance(module, Tensor):
        return module.shape[0 if side == "out" else 1]
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if side == "in" and is_depthwise(module):
        return 1  # each filter sees one channel, however many there are
    return int(getattr(module, f"{side}_channels"))


def _linear_params(network: nn.Module, groups: Sequence[Group], layers: set[str]) -> tuple[Floats, float]:
    """Parameters outside convolutions and linear layers: a number per kept channel of each group, and a constant."""
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters())
    owned = {id(weight_of(network, name)) for name in layers}
    owned |= {id(getattr(modules[name], "bias", None)) for name in layers & modules.keys()}
    per_channel = np.zeros(len(groups))
    total = sum(parameter.numel() for parameter in network.parameters() if id(parameter) not in owned)
    for i, group in enumerate(groups):
        for slots in group.slots:
            if slots.name in layers:
                continue
            size = _size_per_channel(parameters, slots.name, slots.dim)
            per_channel[i] += size * len(slots.index) / group.channels
    fixed = total - float(per_channel @ np.array([group.channels for group in groups], dtype=np.float64))
    return per_channel, fixed


def _size_per_channel(parameters: Mapping[str, nn.Parameter], name: str, dim: int | None) -> int:
    """Parameters of one channel of a norm, of a PReLU or of a bare parameter; none of a buffer."""
    if dim is not None:
        return parameters[name].numel() // parameters[name].shape[dim] if name in parameters else 0
    direct = [parameter for place, parameter in parameters.items() if place.rpartition(".")[0] == name]
    return sum(parameter.numel() // parameter.shape[-1] for parameter in direct)
