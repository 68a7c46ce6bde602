"""Predicted latency of any allocation, from a table of measured layer times.

    latency = s · Σ over layers of t(in, out) + b · activations + a

t is interpolated linearly in a grid of measured widths; where channels are a layer's positions, it falls with these.
Norms, activations, additions and calls are no layers: their time grows with the activations that the layers write. s, b
and a are fitted to whole networks, measured dense and at several strengths; they are at least 0, so that no wider
network is faster. The table is measured once per device, number of threads, batch and network, and kept in a file. All
times are the least of many rounds, and with a single thread processor time, so that other work on the machine does not
count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from methods.base import Compressor, Levels
from models.execution.inputs import Inputs
from models.wording import plural
from search.allocation.allocate import Ladders
from search.allocation.budget import Ints, LatencyModel
from search.files.atomic import atomic_write
from search.latency.grids import Grid, GridTimes, fit_parts, predict_times
from search.latency.layer_times import (
    Shape,
    Timer,
    device_timer,
    input_shapes,
    layer_kind,
    least_nanoseconds,
    measure_grid,
)
from search.latency.progress import ProgressLines, Say
from search.latency.widths import Widths, checked_widths, least_widths
from search.machine.host import device_name

Floats = npt.NDArray[np.float64]
TimedLayer = tuple[nn.Module, list[Shape]]
"""A layer, and the shape of its input in each of its calls."""
SCHEMA = 2
FOLDER = "latency"  # below results
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of all sites alike, in the whole networks that are measured
PASSES = 2  # over all layers and networks, so that a busy minute spoils none of them
STEADY = 1.3  # the user is told if two measurements of the same network differ by a larger factor


@dataclass(frozen=True)
class TimingConditions:
    """The conditions that a time was measured under."""

    device: str
    threads: int
    batch: int
    torch: str

    def conditions_text(self) -> str:
        """`batch 1 on <processor>, 2 threads`."""
        return f"batch {self.batch} on {self.device}, {plural(self.threads, 'thread')}"


class LatencyTable:
    """Predicted nanoseconds of one batch, by the levels of all sites of the method."""

    def __init__(self, cost: Widths, grids: Sequence[Grid], where: TimingConditions) -> None:
        """`grids`: one for each of `cost.layers`."""
        self.where = where
        self._cost = cost
        self._layer_times = GridTimes(grids)
        self._parts = np.array([1.0, 0.0, 0.0])  # s, b and a of the equation above

    def fit_parts(self, levels: Levels, measured: Floats) -> None:
        """Fit s, b and a to whole networks.

        s differs from 1 where layers take another time within a network than alone.

        Args:
            levels: (n, n_sites), the dense network first.
            measured: (n,) nanoseconds of the whole networks.
        """
        self._parts = fit_parts(self._latency_features(levels), measured)

    @property
    def dense_nanoseconds(self) -> int:
        return int(self(np.zeros((1, len(self._cost.ladders)), dtype=np.intp))[0])

    def __call__(self, levels: Levels) -> Ints:
        return predict_times(self._latency_features(levels), self._parts)

    def _latency_features(self, levels: Levels) -> Floats:
        """(n, 3): the sum of the layers' times, the activations that they write, and 1."""
        times = self._layer_times(*self._cost.layer_widths(levels)) * self._cost.position_shares(levels)
        return np.stack([times.sum(1), self._cost.written_elements(levels), np.ones(len(levels))], axis=1)


def latency_table(
    compressor: Compressor, *, batch: int, results: Path, say: Say, time: Timer | None = None
) -> LatencyTable:
    """The table of a method on a network and device, read from its file or measured now.

    Raises:
        UserError: the method makes tables of kernels, which take as long as dense ones, or its costs tell no widths.
    """
    cost = checked_widths(compressor)
    where = timing_conditions(compressor.example.device, batch)
    layers = _timed_layers(compressor, cost)
    path = results / FOLDER / f"{_table_digest(compressor, cost, layers, where)}.json"
    record = _read_record(path)
    if record is None:
        say(f"measuring layer times at several widths, {where.conditions_text()}; once, then kept in {path} ...")
        record = _measure_record(compressor, cost, layers, batch, time or device_timer(compressor.example.device), say)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"schema": SCHEMA, **asdict(where), **record}) + "\n")
    table = LatencyTable(cost, [Grid(*(map(_as_tuples, grid))) for grid in record["grids"]], where)
    table.fit_parts(np.array(record["levels"], dtype=np.intp), np.array(record["nanoseconds"], dtype=np.float64))
    return table


def timing_conditions(device: torch.device, batch: int) -> TimingConditions:
    return TimingConditions(device_name(device), torch.get_num_threads(), batch, torch.__version__)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record of an earlier measurement; None without a file, or for one of another format."""
    try:
        record = json.loads(path.read_text())
        complete = record["schema"] == SCHEMA and all(record[key] for key in ("grids", "levels", "nanoseconds"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record) if complete else None


def _timed_layers(compressor: Compressor, cost: Widths) -> list[TimedLayer]:
    """The layers of the cost model, each with the shapes that it reads."""
    network = cost.network
    shapes = input_shapes(network, compressor.example)
    return [(network.get_submodule(name), shapes.get(name, [])) for name in cost.layers]


def _table_digest(compressor: Compressor, cost: Widths, layers: Sequence[TimedLayer], where: TimingConditions) -> str:
    """A digest of all that the times depend on: the name of the table's file."""
    levels = _anchor_levels(compressor)
    widths = [side.tolist() for side in cost.layer_widths(levels)]
    kinds = [layer_kind(*layer) for layer in layers]
    content = json.dumps([asdict(where), str(compressor.network), kinds, levels.tolist(), widths])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _anchor_levels(compressor: Compressor) -> Levels:
    """Levels of the whole networks that are measured, (n, n_sites): all sites alike, then either half of them dense."""
    wanted = np.repeat(np.array(STRENGTHS)[:, None], len(compressor.sites), axis=1)
    alike = Ladders(compressor.sites).levels_at(wanted)
    halves = np.repeat(alike[-2:-1], 2, axis=0)
    middle = len(compressor.sites) // 2
    halves[0, :middle] = halves[1, middle:] = 0
    return np.vstack([alike, halves])


def _measure_record(
    compressor: Compressor, cost: Widths, layers: Sequence[TimedLayer], batch: int, time: Timer, say: Say
) -> dict[str, Any]:
    """Measure the grids of all layers, each kind of layer once per pass, and the whole networks."""
    levels = _anchor_levels(compressor)
    least = least_widths(cost, levels.max(0))
    names = [f"{layer_kind(*layer)} from {widths}" for layer, widths in zip(layers, least, strict=True)]
    kinds = dict(zip(names, zip(layers, least, strict=True), strict=True))
    networks = [compressor.compress(compressor.allocation(anchor)).eval() for anchor in levels]
    inputs = Inputs.of(compressor.example).repeat(batch)
    network_times, grids, progress = (
        np.full(len(levels), np.inf),
        dict[str, Grid](),
        ProgressLines(say, PASSES * (len(kinds) + 1)),
    )
    for _ in range(PASSES):
        second_times = np.array(least_nanoseconds([partial(inputs, network) for network in networks], time))
        disagreement, network_times = (
            np.maximum(network_times / second_times, second_times / network_times),
            np.minimum(network_times, second_times),
        )
        progress.count_one()
        for name, ((layer, layer_shapes), widths) in kinds.items():
            grid = measure_grid(layer, layer_shapes, widths, batch, time)
            grids[name] = grid.least_times(grids[name]) if name in grids else grid
            progress.count_one()
    if disagreement.max() > STEADY:
        say(
            f"the machine is busy: the same network took {disagreement.max():.2f} times as long a little later; "
            "predictions may be as far off; remove the file and measure again when it is idle, or on one thread"
        )
    return {
        "grids": [[grids[name].inputs, grids[name].outputs, grids[name].nanoseconds] for name in names],
        "levels": levels.tolist(),
        "nanoseconds": network_times.tolist(),
    }


class ChosenLatency:
    """The table's predictions by the levels of the sites that constraints leave a choice."""

    def __init__(self, table: LatencyModel, full: Callable[[Levels], Levels]) -> None:
        self.table, self._full = table, full

    @property
    def dense_nanoseconds(self) -> int:
        return self.table.dense_nanoseconds

    def __call__(self, levels: Levels) -> Ints:
        return self.table(self._full(levels))
