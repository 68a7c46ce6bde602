"""Times of a layer at smaller widths: its module, narrowed, on noise of the shape that it gets in the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.narrow import LAYERS, channels_of, is_depthwise, narrow_module
from methods.graph.trace import evaluation_mode
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Example, Inputs
from models.execution.tensor_leaves import first_tensor
from search.latency.grids import Grid
from search.latency.timing import quiet_clock, time_in_turns

ROUNDS = 60
LEAST_ROUNDS = 3
BUDGET = 2.0  # seconds for runs that are timed in turns, after which no round begins beyond the least number
BLOCK = 0.0005  # seconds of calls timed together: short, so that other processes interrupt only some of the blocks
AGREE = 1.03  # a least time counts as the true one once another round has come this near to it
POINTS = (0.25, 0.5, 1.0)  # widths that are measured, as shares of the dense one

Shape = tuple[int, ...]
Timer = Callable[[Sequence[Callable[[], object]]], list[list[float]]]
"""Seconds of one call of each run, a value per round, timed in turns."""


def device_timer(device: torch.device) -> Timer:
    """A timer for this device; it stops once every run has shown its least time twice."""

    def time_calls(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        with torch.inference_mode():
            return time_in_turns(
                runs,
                clock=quiet_clock(device),
                rounds=ROUNDS,
                least=LEAST_ROUNDS,
                budget=BUDGET,
                block=BLOCK,
                enough=lambda seconds: all(map(is_settled, seconds)),
            )

    return time_calls


def is_settled(seconds: Sequence[float]) -> bool:
    """Whether the least time was seen twice."""
    first, second = sorted(seconds)[:2]
    return second <= AGREE * first


def least_nanoseconds(runs: Sequence[Callable[[], object]], time: Timer) -> list[float]:
    """Nanoseconds of one call of each run: its least time, because other work on the machine only adds to it."""
    return [1e9 * min(seconds) for seconds in time(runs)]


def input_shapes(network: nn.Module, example: Example) -> dict[str, list[Shape]]:
    """Layer -> the shape of its input in each of its calls, its first entry for one input of the network.

    That is 1 for most layers, and more where they get frames of a clip or regions of an image.
    """
    shapes: dict[str, list[Shape]] = {}
    inputs = Inputs.of(example).clone()
    count = len(inputs)

    def record_shape(name: str, layer: nn.Module, inputs: Any) -> None:
        rows, *shape = first_tensor(inputs).shape
        shapes.setdefault(name, []).append((max(1, round(rows / count)), *shape))

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, LAYERS)]
    hooks = [(module, partial(record_shape, name)) for name, module in layers]
    with forward_hooks(before=hooks), evaluation_mode(network, inputs.device):
        inputs(network)
    return shapes


def layer_kind(layer: nn.Module, shapes: list[Shape]) -> str:
    """A text that is the same for layers that take the same time at the same widths."""
    return f"{type(layer).__name__}({layer.extra_repr()}) on {shapes}"


def measure_grid(layer: nn.Module, shapes: list[Shape], least: tuple[int, int], batch: int, time: Timer) -> Grid:
    """The layer's times over a grid of widths, from `least` (in, out) to its dense ones."""
    groups = blocks_of(layer)
    inputs = [1] if is_depthwise(layer) else _grid_widths(channels_of(layer, "in"), least[0], groups)
    outputs = _grid_widths(channels_of(layer, "out"), least[1], groups)
    runs = [run for width in inputs for run in _layer_calls(layer, shapes, width, outputs, batch)]
    times = np.array(least_nanoseconds(runs, time)).reshape(len(inputs), len(outputs))
    return Grid(tuple(inputs), tuple(outputs), tuple(map(tuple, times.tolist()))).rising_times()


def blocks_of(layer: nn.Module) -> int:
    """The number that a layer's widths are multiples of: its groups, or a depthwise layer's filters per channel."""
    if is_depthwise(layer):
        return channels_of(layer, "out") // channels_of(layer, "in")
    return int(getattr(layer, "groups", 1))


def _grid_widths(width: int, least: int, multiple: int) -> list[int]:
    """Widths to measure, `least` and `width` among them; all are multiples of the layer's blocks."""
    if least >= width:
        return [width]
    wanted = [least, *(share * width for share in POINTS)]
    rounded = {max(multiple, round(point / multiple) * multiple) for point in wanted if point >= least}
    return sorted(rounded | {width})


def _layer_calls(
    layer: nn.Module, shapes: list[Shape], inputs: int, outputs: list[int], batch: int
) -> list[partial[None]]:
    """For each output width a run: all calls of the layer for one batch, on inputs that the runs share.

    A depthwise layer has inputs in proportion to its outputs, so its runs have inputs of their own.
    """
    device = next(layer.parameters()).device

    def draw_noise(width: int) -> list[Tensor]:
        narrow = [
            (*shape[:-1], width) if isinstance(layer, nn.Linear) else (shape[0], width, *shape[2:]) for shape in shapes
        ]
        return [torch.randn(batch * rows, *shape, device=device) for rows, *shape in narrow]

    shared, blocks = [] if is_depthwise(layer) else draw_noise(inputs), blocks_of(layer)
    return [
        partial(_call_layer, narrow_layer(layer, inputs, width).eval(), shared or draw_noise(width // blocks))
        for width in outputs
    ]


def _call_layer(layer: nn.Module, batches: Sequence[Tensor]) -> None:
    for x in batches:
        layer(x)


def narrow_layer(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """A copy of the layer with so many channels in and out, equally many in each group."""
    small = copy_network(layer)
    if is_depthwise(layer):
        narrow_module(small, "out", torch.arange(outputs))
        return small
    groups = blocks_of(layer)
    # Outputs first, as in `keep_channels`.
    narrow_module(small, "out", _first_channels(channels_of(layer, "out"), outputs, groups))
    narrow_module(small, "in", _first_channels(channels_of(layer, "in"), inputs, groups))
    return small


def _first_channels(width: int, wanted: int, groups: int) -> Tensor:
    """The first channels of every group, `wanted` in all."""
    offsets = torch.arange(wanted // groups)
    return torch.cat([offsets + start for start in range(0, width, width // groups)])
