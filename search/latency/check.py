"""Check of a predicted latency: the whole compressed network is measured, in turns with the dense one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

from methods.base import Compressor, Levels
from methods.graph.trace import evaluation_mode
from models.execution.inputs import Inputs
from search.allocation.targets import TOLERANCE, TargetTerm
from search.latency.layer_times import BLOCK, is_settled
from search.latency.table import LatencyTable
from search.latency.timing import Latency, far_below, quartile_distance, quiet_clock, time_in_turns

FILE = "latency.json"  # in a run's folder: key of a candidate -> its figures
FAR = 0.15  # the user is warned of a prediction with a larger relative error
ROUNDS = 60
LEAST_ROUNDS = 15
BUDGET = 10.0  # seconds, after which no round begins beyond the least number


class CheckedLatency(Latency):
    """Measured and predicted latency; measured is the least of all rounds, as in the table."""

    predicted_ms: float
    predicted_dense_ms: float

    @property
    def kept_fraction(self) -> float:
        """Measured time as a share of the dense network's."""
        return self.compressed_ms / self.dense_ms

    @property
    def predicted_kept(self) -> float:
        return self.predicted_ms / self.predicted_dense_ms

    @property
    def relative_error(self) -> float:
        """(predicted − measured) / measured."""
        return self.predicted_ms / self.compressed_ms - 1

    @property
    def is_far_off(self) -> bool:
        return abs(self.relative_error) > FAR

    def excess_text(self, term: TargetTerm) -> str:
        """A clause on the excess of the measurement over the target; empty within the tolerance."""
        over = self.kept_fraction / term.kept if term.kept else 1e6 * self.compressed_ms / (term.amount or 1.0)
        return f"; {over - 1:.1%} above what was asked" if over - 1 > TOLERANCE else ""

    def figures_text(self) -> str:
        """Both figures, and a warning where they are far apart."""
        return (
            f"measured {self.compressed_ms:.3g} ms whole, kept {self.kept_fraction:.3f}; "
            f"predicted {self.predicted_ms:.3g} ms, kept {self.predicted_kept:.3f} "
            f"({self.relative_error:+.0%}{self._warning_text()}); dense {self.dense_ms:.3g} ms; {self.where_text}"
        )

    def _warning_text(self) -> str:
        if not self.is_far_off:
            return ""
        if abs(self.predicted_kept / self.kept_fraction - 1) <= FAR:
            return ", far off, as for the dense network: the machine is not as it was when the layers were measured"
        return ", far off: the layers' times do not add up to the network's"


def check_prediction(compressor: Compressor, levels: Levels, table: LatencyTable) -> CheckedLatency:
    """Measure the network compressed under one allocation, (n_sites,)."""
    batch = table.where.batch
    inputs = Inputs.of(compressor.example).repeat(batch)
    small, dense = compressor.compress(compressor.allocation(levels)).eval(), compressor.network
    with evaluation_mode(dense, inputs.device), torch.inference_mode():
        seconds = time_in_turns(
            [partial(inputs, dense), partial(inputs, small)],
            clock=quiet_clock(inputs.device),
            rounds=ROUNDS,
            least=LEAST_ROUNDS,
            budget=BUDGET,
            block=BLOCK,
            enough=lambda seconds: all(map(is_settled, seconds)),
        )
    dense_ms, small_ms = ([1e3 * value for value in rounds] for rounds in seconds)
    speed_up = min(dense_ms) / min(small_ms)
    cost = compressor.cost(levels[None])
    theoretical = compressor.cost.dense.flops / max(int(cost.flops[0]), 1)
    return CheckedLatency(
        engine="torch",
        device=f"{inputs.device.type} ({table.where.device})",
        threads=table.where.threads,
        batch=batch,
        rounds=len(dense_ms),
        statistic="least",
        dense_ms=min(dense_ms),
        dense_spread_ms=quartile_distance(dense_ms),
        compressed_ms=min(small_ms),
        compressed_spread_ms=quartile_distance(small_ms),
        speed_up=speed_up,
        theoretical=theoretical,
        far_below=far_below(speed_up, theoretical),
        predicted_ms=int(table(levels[None])[0]) / 1e6,
        predicted_dense_ms=table.dense_nanoseconds / 1e6,
    )


def read_latencies(path: Path) -> dict[str, CheckedLatency]:
    """The latencies that a run measured; none if it has no such file, or not one of this format."""
    try:
        return {key: CheckedLatency.model_validate(figures) for key, figures in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
