"""Predicted latency of any allocation, from a table of measured layer times.

    latency = Σ over layers of t(in, out) + a + b · activations

t comes from a grid of measured widths, linear between. What is no layer (norms, activations, additions, calls) is
taken to grow with the activations that the layers write; a and b come from the whole network, measured dense and at
two strengths. The table is measured once per device, threads, batch and network, and kept in a file.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from methods.base import Compressor, Levels
from models.errors import UserError
from search.budget import Ints
from search.files import atomic_write
from search.host import device_name
from search.latency import clock_of, measure
from search.layer_times import Grid, Shape, Timer, input_shapes, kind, measure_grid, timer

Floats = npt.NDArray[np.float64]
SCHEMA = 1
FOLDER = "latency"  # below results
FAR = 0.15  # a prediction that is further off than this is said to be
Say = Callable[[str], None]


def tell(line: str) -> None:
    """A line for whoever waits, apart from what is printed as a result."""
    print(line, file=sys.stderr, flush=True)


@runtime_checkable
class Widths(Protocol):
    """A cost model that knows the widths of layers."""

    layers: tuple[str, ...]
    positions: Floats
    kept: Sequence[Floats]

    def widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Channels into and out of every layer, each (n_allocations, n_layers)."""


@dataclass(frozen=True)
class Where:
    """What a time holds for."""

    device: str
    threads: int
    batch: int
    torch: str

    def words(self) -> str:
        """`batch 1 on <processor>, 2 threads`."""
        return f"batch {self.batch} on {self.device}, {self.threads} threads"


class LatencyTable:
    """Nanoseconds of one batch by the levels of all the method's sites."""

    def __init__(self, cost: Widths, grids: Sequence[Grid], where: Where) -> None:
        """`grids`: one for each of `cost.layers`."""
        self.where = where
        self._cost = cost
        self._inputs, self._outputs = (
            _padded([getattr(grid, side) for grid in grids]) for side in ("inputs", "outputs")
        )
        shape = (len(grids), self._inputs.shape[1], self._outputs.shape[1])
        self._times = np.zeros(shape)
        for row, grid in zip(self._times, grids, strict=True):
            table = np.array(grid.nanoseconds)
            row[: table.shape[0], : table.shape[1]] = table
        self._fixed = self._each = 0.0

    def fit(self, levels: Levels, measured: Floats) -> None:
        """Account for what is no layer.

        Args:
            levels: (n, n_sites), the dense network first.
            measured: (n,) nanoseconds of the whole networks.
        """
        layers, volume = self._layers(levels)
        rest, apart = measured - layers, volume - volume[0]
        if rest[0] <= 0:  # layers that were timed as slower than the whole: only their proportions are kept
            self._times *= measured[0] / layers[0]
            return
        slope = float((apart @ (rest - rest[0])) / max(apart @ apart, 1e-9))
        self._each = float(np.clip(slope, 0.0, rest[0] / volume[0]))
        self._fixed = float(rest[0] - self._each * volume[0])

    @property
    def dense(self) -> int:
        return int(self(np.zeros((1, len(self._cost.kept)), dtype=np.intp))[0])

    def __call__(self, levels: Levels) -> Ints:
        layers, volume = self._layers(levels)
        whole: Ints = np.rint(np.maximum(layers + self._fixed + self._each * volume, 1.0)).astype(np.int64)
        return whole

    def _layers(self, levels: Levels) -> tuple[Floats, Floats]:
        """Summed times of the layers, and activations that they write; (n,) each."""
        inputs, outputs = self._cost.widths(levels)
        low_in, high_in, part_in = _between(self._inputs, inputs)
        low_out, high_out, part_out = _between(self._outputs, outputs)
        rows = np.arange(len(self._times))
        near = _mix(self._times[rows, low_in, low_out], self._times[rows, low_in, high_out], part_out)
        far = _mix(self._times[rows, high_in, low_out], self._times[rows, high_in, high_out], part_out)
        return _mix(near, far, part_in).sum(1), outputs @ self._cost.positions


def _mix(low: Floats, high: Floats, part: Floats) -> Floats:
    return low + part * (high - low)


def _padded(axes: Sequence[Sequence[int]]) -> Floats:
    """(n_layers, longest); NaN after the last width of an axis."""
    table = np.full((len(axes), max(map(len, axes))), np.nan)
    for row, axis in zip(table, axes, strict=True):
        row[: len(axis)] = axis
    return table


def _between(axes: Floats, widths: Floats) -> tuple[Levels, Levels, Floats]:
    """The measured widths around each of `widths`, (n, n_layers), and how far it lies between them, 0 to 1."""
    last = (~np.isnan(axes)).sum(1) - 1
    low = np.clip((axes[None] <= widths[..., None]).sum(-1) - 1, 0, np.maximum(last - 1, 0)).astype(np.intp)
    high = np.minimum(low + 1, last)
    rows = np.arange(len(axes))
    apart = axes[rows, high] - axes[rows, low]
    part = np.clip((widths - axes[rows, low]) / np.maximum(apart, 1e-9), 0.0, 1.0)
    return low, high, np.where(apart > 0, part, 0.0)


def latency_table(
    compressor: Compressor, *, batch: int, results: Path, say: Say, time: Timer | None = None
) -> LatencyTable:
    """The table of a method on a network and device, from its file or measured now.

    Raises:
        UserError: the method's layers take as long as dense ones.
    """
    cost = compressor.cost
    if not compressor.info.shrinks_channels or not isinstance(cost, Widths):
        raise UserError(
            f"{compressor.info.name} leaves layers as wide as they are and runs them as dense ones, so that no latency "
            "is gained; ask for FLOPs, parameters or bytes, or take a method that removes channels, e.g. l1"
        )
    where = where_of(compressor.example.device, batch)
    shapes = input_shapes(compressor.network, compressor.example)
    path = results / FOLDER / f"{_digest(compressor, cost, shapes, where)}.json"
    known = _read(path)
    if known is None:
        say(f"measuring layer times at several widths, {where.words()}; once, then kept in {path} ...")
        known = _measured(compressor, cost, shapes, batch, time or timer(compressor.example.device))
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"schema": SCHEMA, **asdict(where), **known}) + "\n")
    table = LatencyTable(cost, [Grid(*(map(_tuples, each))) for each in known["grids"]], where)
    table.fit(np.array(known["levels"], dtype=np.intp), np.array(known["nanoseconds"], dtype=np.float64))
    return table


def where_of(device: torch.device, batch: int) -> Where:
    return Where(device_name(device), torch.get_num_threads(), batch, torch.__version__)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any] | None:
    """What was measured before; None if nothing was, or it cannot be read."""
    try:
        known = json.loads(path.read_text())
        whole = known["schema"] == SCHEMA and all(known[key] for key in ("grids", "levels", "nanoseconds"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(known) if whole else None


def _digest(compressor: Compressor, cost: Widths, shapes: Mapping[str, list[Shape]], where: Where) -> str:
    """The same for everything that the same table holds for."""
    levels = _anchors(compressor)
    widths = [side.tolist() for side in cost.widths(levels)]
    layers = [kind(compressor.network.get_submodule(name), shapes.get(name, [])) for name in cost.layers]
    content = json.dumps([asdict(where), str(compressor.network), layers, levels.tolist(), widths])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _anchors(compressor: Compressor) -> Levels:
    """The whole networks that are measured: dense, half way and smallest, (3, n_sites)."""
    half = [int(np.searchsorted(site.strengths, 0.5, side="right")) - 1 for site in compressor.sites]
    last = [len(site.settings) - 1 for site in compressor.sites]
    return np.array([[0] * len(last), half, last], dtype=np.intp)


def _measured(
    compressor: Compressor, cost: Widths, shapes: Mapping[str, list[Shape]], batch: int, time: Timer
) -> dict[str, Any]:
    """Grids of all layers, each kind measured once, and the times of the whole networks."""
    levels = _anchors(compressor)
    least = zip(*(side[-1].round().astype(int).tolist() for side in cost.widths(levels)), strict=True)
    grids: dict[str, Grid] = {}
    names = []
    for name, smallest in zip(cost.layers, least, strict=True):
        layer, own = compressor.network.get_submodule(name), shapes.get(name, [])
        names.append(f"{kind(layer, own)} from {smallest}")
        if names[-1] not in grids:
            grids[names[-1]] = measure_grid(layer, own, smallest, batch, time)
    networks = [compressor.compress(compressor.allocation(row)).eval() for row in levels]
    x = torch.randn(batch, *compressor.example.shape[1:], device=compressor.example.device)
    return {
        "grids": [[grids[name].inputs, grids[name].outputs, grids[name].nanoseconds] for name in names],
        "levels": levels.tolist(),
        "nanoseconds": [1e9 * time(lambda network=network: network(x)) for network in networks],  # type: ignore[misc]
    }


class ChosenLatency:
    """The table by the levels of the sites that constraints leave."""

    def __init__(self, table: LatencyTable, full: Callable[[Levels], Levels]) -> None:
        self.table, self._full = table, full

    @property
    def dense(self) -> int:
        return self.table.dense

    def __call__(self, levels: Levels) -> Ints:
        return self.table(self._full(levels))


@dataclass(frozen=True)
class Checked:
    """A whole compressed network, measured in turns with the dense one."""

    dense_ms: float
    measured_ms: float
    predicted_ms: float
    predicted_dense_ms: float
    where: Where

    @property
    def off(self) -> float:
        """How far the prediction lies from the measurement, as a share of it."""
        return self.predicted_ms / self.measured_ms - 1

    def words(self) -> str:
        far = ", far off: the network or a busy machine is to blame" if abs(self.off) > FAR else ""
        return (
            f"measured {self.measured_ms:.3g} ms whole, kept {self.measured_ms / self.dense_ms:.3f}; predicted "
            f"{self.predicted_ms:.3g} ms, kept "
            f"{self.predicted_ms / self.predicted_dense_ms:.3f} ({self.off:+.0%}{far})"
            f"; dense {self.dense_ms:.3g} ms; {self.where.words()}"
        )


def check_whole(compressor: Compressor, levels: Levels, table: LatencyTable) -> Checked:
    """Measure the network that one allocation, (n_sites,), comes to."""
    small = compressor.compress(compressor.allocation(levels)).eval()
    dense, device = compressor.network, compressor.example.device
    training = dense.training
    x = torch.randn(table.where.batch, *compressor.example.shape[1:], device=device)
    try:
        with torch.inference_mode():
            times = measure(lambda: dense.eval()(x), lambda: small(x), clock=clock_of(device))
    finally:
        dense.train(training)
    predicted = int(table(levels[None])[0]) / 1e6
    return Checked(
        statistics.median(times.dense), statistics.median(times.compressed), predicted, table.dense / 1e6, table.where
    )
