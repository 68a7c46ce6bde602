"""A leaderboard's rows: the figures of each answer's finalist over its seeds, and what a reader must know of them.

A missing figure is blank, never guessed. FLOPs are multiply-accumulates for one input.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import commonest_reason
from models.wording import plural
from search.allocation.targets import TOLERANCE
from search.latency.check import CheckedLatency
from search.latency.predicted import PredictedLatency
from search.latency.timing import Latency
from search.leaderboard.answers import Answer
from search.leaderboard.commands import Commands
from search.results.dense import Dense
from search.results.tables import ratio_or_none, summarize_seeds

# The columns of the CSV, whose order users' scripts may rely on.
TYPES = {
    "task": "str",
    "rank": "Int64",
    "row": "str",
    "method": "str",
    "options": "str",
    "strategy": "str",
    "target": "str",
    "band": "float64",  # the largest kept share of FLOPs that was asked for in it; 0: no target of FLOPs
    # On the test set: mean and standard deviation over seeds, and how many there were.
    "dense_score": "float64",
    "score": "float64",
    "std": "float64",
    "n": "Int64",
    "delta": "float64",  # against the dense network
    "kept_asked": "float64",  # share of the dense network's FLOPs, as is kept_flops
    "kept_flops": "float64",
    "flops": "Int64",
    "params": "Int64",
    "bytes": "Int64",
    "compression": "float64",  # dense bytes / compressed bytes
    # Of one batch; of one image where `latency_device` names no other.
    "dense_latency_ms": "float64",
    "latency_ms": "float64",
    "latency_device": "str",
    "searched": "Int64",
    "search_seconds": "float64",  # the workers'
    "epochs": "float64",
    "device": "str",
    "run": "str",
    "command": "str",
    "note": "str",
}
ONE_SEED = "one seed: its noise is unknown, so it has no rank"


@dataclass(frozen=True)
class KnownLatency:
    """What is known of a finalist's latency."""

    measured: Latency | None
    predicted: tuple[PredictedLatency, ...] = ()
    """On devices with tables."""

    @property
    def columns(self) -> dict[str, Any]:
        """The measured figures; without any, those of the first device with a table, named as predicted."""
        if self.measured is not None:
            dense, compressed, where = self.measured.dense_ms, self.measured.compressed_ms, self.measured.where_text
        else:
            first = self.predicted[0]
            dense, compressed, where = first.dense_ms, first.predicted_ms, first.where_text
        return {"dense_latency_ms": dense, "latency_ms": compressed, "latency_device": where}

    @property
    def notes(self) -> list[str]:
        """What the columns do not say."""
        others = self.predicted if self.measured is not None else self.predicted[1:]
        notes = [prediction.figures_text for prediction in others]
        if isinstance(self.measured, CheckedLatency) and self.measured.is_far_off:
            notes.append(f"the prediction of its latency is {self.measured.relative_error:+.0%} off")
        return notes


def make_row(
    answer: Answer, dense: Dense | None, title: str, commands: Commands, latencies: Mapping[str, KnownLatency]
) -> dict[str, Any]:
    """The columns of `TYPES` but rank and band, and what ranking needs besides: test images and allocation."""
    standing, scored = answer.standing, answer.scored_records
    outcomes = [record.outcome for record in scored]
    figures = summarize_seeds(outcomes, dense)
    latency = next((latencies[record.key] for record in scored if record.key in latencies), None)
    kept_asked = ratio_or_none(standing.target_flops, dense.flops) if dense else None
    return {
        **figures,
        "task": title,
        "rank": None,
        "row": standing.row,
        "method": standing.method,
        "options": ", ".join(f"{name}={value}" for name, value in standing.options.items()),
        "strategy": standing.strategy,
        "target": str(standing.target),
        "band": None,
        "dense_score": dense.test_score if dense else None,
        "score": figures["test_score"],
        "std": figures["test_std"],
        "n": len(scored),
        "kept_asked": kept_asked,
        **(latency.columns if latency else {}),
        "searched": standing.searched if standing.final else None,
        "search_seconds": standing.search_seconds if standing.final else None,
        "device": ", ".join(dict.fromkeys(o.device for o in outcomes if o.device)) or None,
        "run": standing.run,
        "command": commands.command_of(standing),
        "note": "; ".join(_row_notes(answer, kept_asked, figures["kept_flops"], latency)) or None,
        "images": min((outcome.images for outcome in outcomes), default=0),
        # A method that learns while it trains is not told an allocation: its outcome has the one it came to.
        "allocation": str(scored[0].candidate.allocation or outcomes[0].allocation) if scored else "",
    }


def _row_notes(
    answer: Answer, kept_asked: float | None, kept_flops: float | None, latency: KnownLatency | None
) -> list[str]:
    """What a reader must know of a row besides its figures."""
    standing, tested = answer.standing, answer.tested
    if standing.final is None:
        return [standing.reason or "no finalist"]
    notes = [f"under {shlex.join(standing.constraints)}"] if standing.constraints else []
    if not tested:
        notes.append("its finalist has not met the test set yet, or did so under an earlier version")
    if len(answer.scored_records) == 1:
        notes.append(ONE_SEED)
    failures = [record.outcome for record in tested.values() if record.outcome.status == "failed"]
    if failures:
        reason = commonest_reason(failure.reason or "no reason given" for failure in failures)
        notes.append(f"{len(failures)} of {plural(len(tested), 'seed')} failed: {reason}")
    # Beside another limit, such as latency, FLOPs may have to lie far below their own.
    flops_alone = standing.target.measures == ("flops",)
    if flops_alone and kept_asked is not None and kept_flops is not None and kept_flops < kept_asked - TOLERANCE:
        notes.append(f"its FLOPs lie more than {TOLERANCE:.1%} of the dense ones below the target")
    notes += latency.notes if latency else []
    return notes
