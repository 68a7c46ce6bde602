"""How long a layer takes at other widths: its own module, narrowed, on noise of the shape that it really sees."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.narrow import channels_of, is_depthwise, narrow
from methods.trace import LAYERS, evaluating
from search.latency import clock_of, single

ROUNDS = 3  # of which the median counts
BLOCK = 0.004  # seconds of calls timed together
POINTS = (0.25, 0.5, 1.0)  # widths that are measured, as shares of the dense one

Shape = tuple[int, ...]
Timer = Callable[[Callable[[], object]], float]
"""Seconds of one call."""


@dataclass(frozen=True)
class Grid:
    """Times of one layer over widths, for one batch."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    nanoseconds: tuple[tuple[float, ...], ...]
    """(n_inputs, n_outputs)"""


def timer(device: torch.device) -> Timer:
    """What times a call on this device."""

    def time(run: Callable[[], object]) -> float:
        with torch.inference_mode():
            return statistics.median(single(run, rounds=ROUNDS, block=BLOCK, clock=clock_of(device)))

    return time


def input_shapes(network: nn.Module, example: Tensor) -> dict[str, list[Shape]]:
    """Layer -> the shape of its input, without the batch, in each of its calls."""
    found: dict[str, list[Shape]] = {}

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.setdefault(name, []).append(tuple(inputs[0].shape[1:]))

    handles = [module.register_forward_pre_hook(partial(record, name))
               for name, module in network.named_modules() if isinstance(module, LAYERS)]  # fmt: skip
    try:
        with evaluating(network, example):
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def kind(layer: nn.Module, shapes: list[Shape]) -> str:
    """Layers of one kind take the same time at the same widths."""
    return f"{type(layer).__name__}({layer.extra_repr()}) on {shapes}"


def measure_grid(layer: nn.Module, shapes: list[Shape], least: tuple[int, int], batch: int, time: Timer) -> Grid:
    """The layer's times over a grid of widths from `least` (in, out) to its own."""
    groups = int(getattr(layer, "groups", 1))
    inputs = [1] if is_depthwise(layer) else _points(channels_of(layer, "in"), least[0], groups)
    outputs = _points(channels_of(layer, "out"), least[1], 1 if is_depthwise(layer) else groups)
    rows = tuple(tuple(_time(layer, shapes, i, o, batch, time) for o in outputs) for i in inputs)
    return Grid(tuple(inputs), tuple(outputs), tuple(map(tuple, _rising(rows))))


def _points(width: int, least: int, multiple: int) -> list[int]:
    """Widths to measure: multiples of what the layer's groups need, the least and the whole among them."""
    if least >= width:
        return [width]
    wanted = [least, *(share * width for share in POINTS)]
    return sorted({max(multiple, round(each / multiple) * multiple) for each in wanted if each >= least} | {width})


def _rising(rows: tuple[tuple[float, ...], ...]) -> list[list[float]]:
    """A wider layer is never taken to be faster: what noise and kernels' favourite widths say otherwise goes."""
    table = np.maximum.accumulate(np.maximum.accumulate(np.array(rows), axis=0), axis=1)
    rising: list[list[float]] = table.tolist()
    return rising


def _time(layer: nn.Module, shapes: list[Shape], inputs: int, outputs: int, batch: int, time: Timer) -> float:
    """Nanoseconds of all the layer's calls for one batch."""
    small = narrowed(layer, inputs, outputs).eval()
    device = next(small.parameters()).device
    width = outputs if is_depthwise(layer) else inputs
    total = 0.0
    for shape in shapes:
        narrow_shape = (*shape[:-1], width) if isinstance(layer, nn.Linear) else (width, *shape[1:])
        x = torch.randn(batch, *narrow_shape, device=device)
        total += 1e9 * time(partial(small, x))
    return total


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
