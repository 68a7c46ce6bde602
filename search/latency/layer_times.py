"""How long a layer takes at other widths: its own module, narrowed, on noise of the shape that it really sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.narrow import channels_of, is_depthwise, narrow
from methods.graph.trace import LAYERS, evaluating
from models.execution.forward_hooks import forward_hooks
from search.latency.timing import in_turns, quiet_clock

ROUNDS = 60
LEAST_ROUNDS = 3
BUDGET = 2.0  # seconds for calls that are timed in turns, once they had their least number of rounds
BLOCK = 0.0005  # seconds of calls timed together: short, so that some block escapes what else the machine does
AGREE = 1.03  # the least time is taken for the true one once another round came as near to it
POINTS = (0.25, 0.5, 1.0)  # widths that are measured, as shares of the dense one

Shape = tuple[int, ...]
Timer = Callable[[Sequence[Callable[[], object]]], list[list[float]]]
"""Seconds of one call of each, a value a round, timed in turns."""


@dataclass(frozen=True)
class Grid:
    """Times of one layer over widths, for one batch."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    nanoseconds: tuple[tuple[float, ...], ...]
    """(n_inputs, n_outputs)"""

    def quicker(self, other: Grid) -> Grid:
        """The lesser time of two measurements of the same layer, width by width."""
        times = np.minimum(np.array(self.nanoseconds), np.array(other.nanoseconds))
        return Grid(self.inputs, self.outputs, tuple(map(tuple, times.tolist())))


def timer(device: torch.device) -> Timer:
    """What times calls on this device, in turns, until each has shown its least time twice."""

    def time(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        with torch.inference_mode():
            return in_turns(
                runs,
                clock=quiet_clock(device),
                rounds=ROUNDS,
                least=LEAST_ROUNDS,
                budget=BUDGET,
                block=BLOCK,
                enough=lambda found: all(map(settled, found)),
            )

    return time


def settled(seconds: Sequence[float]) -> bool:
    """Whether the least time was seen twice."""
    first, second = sorted(seconds)[:2]
    return second <= AGREE * first


def least_of(runs: Sequence[Callable[[], object]], time: Timer) -> list[float]:
    """Nanoseconds of one call of each: its least time, as other work on the machine only ever adds to it."""
    return [1e9 * min(row) for row in time(runs)]


def input_shapes(network: nn.Module, example: Tensor) -> dict[str, list[Shape]]:
    """Layer -> the shape of its input, without the batch, in each of its calls."""
    found: dict[str, list[Shape]] = {}

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.setdefault(name, []).append(tuple(inputs[0].shape[1:]))

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, LAYERS)]
    hooks = [(module, partial(record, name)) for name, module in layers]
    with forward_hooks(before=hooks), evaluating(network, example):
        network(example)
    return found


def kind(layer: nn.Module, shapes: list[Shape]) -> str:
    """Layers of one kind take the same time at the same widths."""
    return f"{type(layer).__name__}({layer.extra_repr()}) on {shapes}"


def measure_grid(layer: nn.Module, shapes: list[Shape], least: tuple[int, int], batch: int, time: Timer) -> Grid:
    """The layer's times over a grid of widths from `least` (in, out) to its own."""
    groups = int(getattr(layer, "groups", 1))
    inputs = [1] if is_depthwise(layer) else _points(channels_of(layer, "in"), least[0], groups)
    outputs = _points(channels_of(layer, "out"), least[1], 1 if is_depthwise(layer) else groups)
    runs = [each for width in inputs for each in _calls(layer, shapes, width, outputs, batch)]
    table = np.array(least_of(runs, time)).reshape(len(inputs), len(outputs))
    return Grid(tuple(inputs), tuple(outputs), tuple(map(tuple, _rising(table))))


def _points(width: int, least: int, multiple: int) -> list[int]:
    """Widths to measure: multiples of what the layer's groups need, the least and the whole among them."""
    if least >= width:
        return [width]
    wanted = [least, *(share * width for share in POINTS)]
    return sorted({max(multiple, round(each / multiple) * multiple) for each in wanted if each >= least} | {width})


def _rising(times: npt.NDArray[np.float64]) -> list[list[float]]:
    """A wider layer is never taken to be faster: what noise and kernels' favourite widths say otherwise goes."""
    rising: list[list[float]] = np.maximum.accumulate(np.maximum.accumulate(times, axis=0), axis=1).tolist()
    return rising


def _calls(layer: nn.Module, shapes: list[Shape], inputs: int, outputs: list[int], batch: int) -> list[partial[None]]:
    """For each width of the output all the layer's calls for one batch; they share their inputs, unless depthwise."""
    device = next(layer.parameters()).device

    def noise(width: int) -> list[Tensor]:
        narrow = [(*shape[:-1], width) if isinstance(layer, nn.Linear) else (width, *shape[1:]) for shape in shapes]
        return [torch.randn(batch, *shape, device=device) for shape in narrow]

    shared = [] if is_depthwise(layer) else noise(inputs)
    return [partial(_call, narrowed(layer, inputs, width).eval(), shared or noise(width)) for width in outputs]


def _call(layer: nn.Module, batches: Sequence[Tensor]) -> None:
    for x in batches:
        layer(x)


def narrowed(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """A copy of the layer with so many channels in and out; of each group as many."""
    small = copy_network(layer)
    if not is_depthwise(layer):
        narrow(small, "in", _first(channels_of(layer, "in"), inputs, int(getattr(layer, "groups", 1))))
    groups = 1 if is_depthwise(layer) else int(getattr(layer, "groups", 1))
    narrow(small, "out", _first(channels_of(layer, "out"), outputs, groups))
    return small


def _first(width: int, wanted: int, groups: int) -> Tensor:
    """The first channels of every group, `wanted` in all."""
    own = torch.arange(wanted // groups)
    return torch.cat([own + start for start in range(0, width, width // groups)])
