"""The tables of a run: every candidate, the front, the finalists. A missing figure is blank, never guessed.

FLOPs are multiply-accumulates for one input, `kept` a share of the dense network, `score` the task's metric on the
search split, `test_score` on the test set, `delta` its difference from the dense network's; seconds are the workers'.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from methods.base import Allocation
from models.tasks.metric import ACCURACY, Metric
from search.allocation.targets import Target
from search.candidate import Candidate, Outcome
from search.latency.predicted import FinalLatency
from search.results.dense import Dense

SHORT = 8  # characters of a key that name a candidate in tables
# "Int64" knows blanks; beside one, NumPy's integers would all become floats.
CANDIDATE_TYPES = {
    "candidate": "str",
    "stage": "str",
    "method": "str",
    "strategy": "str",
    "target": "str",
    "seed": "Int64",
    "status": "str",
    "reason": "str",
    "score": "float64",
    "loss": "float64",
    "drift": "float64",
    "merit": "float64",
    "images": "Int64",
    "test_score": "float64",
    "flops": "Int64",
    "kept_flops": "float64",
    "params": "Int64",
    "kept_params": "float64",
    "bytes": "Int64",
    "compression": "float64",
    "epochs": "float64",
    "seconds": "float64",
    "device": "str",
    "key": "str",
    "learned_target": "float64",
    "allocation": "str",
}
ADDED = ("merit", "images")  # columns that tables of earlier versions lack
FINAL_TYPES = {
    "candidate": "str",
    "method": "str",
    "strategy": "str",
    "target": "str",
    "seeds": "Int64",
    "failed": "Int64",
    "test_score": "float64",
    "test_std": "float64",
    "delta": "float64",
    "kept_asked": "float64",
    "kept_flops": "float64",
    "flops": "Int64",
    "params": "Int64",
    "bytes": "Int64",
    "compression": "float64",
    "epochs": "float64",
    "seconds": "float64",
    "searched": "Int64",
    "search_seconds": "float64",
    "latency_ms": "float64",
    "dense_latency_ms": "float64",
    "predicted_latency_ms": "float64",
    "latency_device": "str",
    "allocation": "str",
}


TableRecord = dict[str, Any]  # a line of a table: column -> cell


@dataclass(frozen=True)
class CandidateEntry:
    """One candidate as a strategy asked for it, and what came of it."""

    key: str
    stage: Literal["search", "rung", "final"]
    """`rung`: judged on the way; who went on has an entry of its own for the end."""
    strategy: str
    target: Target
    target_flops: int | None
    """None for a target that does not speak of FLOPs."""
    candidate: Candidate
    outcome: Outcome

    @property
    def allocation(self) -> Allocation:
        """What the candidate was given, or, for a method that learns its widths, what it arrived at."""
        return self.candidate.allocation or self.outcome.allocation or Allocation()

    @property
    def question(self) -> tuple[str, str, Target]:
        """Method, strategy and target: what the candidate was asked for, whatever its allocation and seed."""
        return self.candidate.method, self.strategy, self.target


def short_ids(keys: Iterable[str]) -> dict[str, str]:
    """The first eight characters of each key, more where two keys share them."""
    distinct = list(dict.fromkeys(keys))
    length = SHORT
    while len({key[:length] for key in distinct}) < len(distinct):
        length += 1
    return {key: key[:length] for key in distinct}


def candidates_frame(entries: Sequence[CandidateEntry], dense: Dense) -> pd.DataFrame:
    """One line per entry, in their order. `loss` is that of the images that judged the candidate."""
    ids = short_ids(entry.key for entry in entries)
    return _typed_frame([_candidate_record(entry, dense, ids[entry.key]) for entry in entries], CANDIDATE_TYPES)


def _candidate_record(entry: CandidateEntry, dense: Dense, short_id: str) -> TableRecord:
    candidate, outcome = entry.candidate, entry.outcome
    on_test = candidate.judge == "test"  # scores on search split and test set stand in columns of their own
    return {
        "candidate": short_id,
        "stage": entry.stage,
        "method": candidate.method,
        "strategy": entry.strategy,
        "target": str(entry.target),
        "seed": candidate.seed,
        "status": outcome.status,
        "reason": outcome.reason,
        "score": None if on_test else outcome.score,
        **({} if on_test else other_columns("score", outcome)),
        "loss": outcome.loss,
        "drift": outcome.drift,
        "merit": outcome.merit,
        "images": outcome.images or None,
        "test_score": outcome.score if on_test else None,
        **(other_columns("test_score", outcome) if on_test else {}),
        "flops": outcome.flops,
        "kept_flops": ratio_or_none(outcome.flops, dense.flops),
        "params": outcome.params,
        "kept_params": ratio_or_none(outcome.params, dense.params),
        "bytes": outcome.bytes,
        "compression": ratio_or_none(dense.bytes, outcome.bytes),
        "epochs": outcome.epochs,
        "seconds": outcome.seconds,
        "device": outcome.device,
        "key": entry.key,
        "learned_target": candidate.learned_target,
        "allocation": str(entry.allocation),
    }


def other_columns(column: str, outcome: Outcome) -> dict[str, float]:
    """The metrics that do not rank, in columns such as `score:PSNR`."""
    return {f"{column}:{name}": value for name, value in outcome.metrics.items() if name != outcome.metric.name}


def pareto_front(frame: pd.DataFrame, metric: Metric = ACCURACY) -> pd.DataFrame:
    """The searched candidates that no other beats with fewer FLOPs and a better score, by rising FLOPs.

    Of equal figures there is one.
    """
    has_figures = frame["flops"].notna() & frame["score"].notna()
    judged = frame[(frame["stage"] == "search") & (frame["status"] == "ok") & has_figures]
    ordered = judged.sort_values(["flops", "score"], ascending=[True, metric.lower_is_better], kind="stable")
    values = metric.worth(1) * ordered["score"].to_numpy(dtype=float)
    # Of equal FLOPs the best comes first, so a candidate is on the front if it exceeds every one before it.
    best_so_far = np.maximum.accumulate(np.concatenate([[-np.inf], values]))[:-1]
    return ordered[values > best_so_far].reset_index(drop=True)


def finals_frame(
    entries: Sequence[CandidateEntry], dense: Dense, latencies: Mapping[str, FinalLatency] | None = None
) -> pd.DataFrame:
    """Test results, one line per finalist over its seeds; `std` is the sample's (n − 1) and blank for one seed.

    `candidate` and `allocation` are those of the first seed that succeeded. `searched` and `search_seconds` say how
    many candidates, and how much of the workers' time, the same method and strategy took for the same target.

    Args:
        latencies: key -> latency, of those for a target that asks for it, or with tables of devices.
    """
    ids = short_ids(entry.key for entry in entries)
    finalists: dict[tuple[str, Target, Candidate], list[CandidateEntry]] = {}
    for entry in entries:
        if entry.stage == "final" and entry.candidate.judge == "test":
            # Everything but the seed: seeds of different allocations are never averaged.
            finalist = (entry.strategy, entry.target, entry.candidate.without_seed)
            finalists.setdefault(finalist, []).append(entry)
    searched = [entry for entry in entries if entry.stage != "final"]
    records = [_final_record(seeds, searched, dense, ids, latencies or {}) for seeds in finalists.values()]
    return _typed_frame(records, FINAL_TYPES)


def _final_record(
    seeds: list[CandidateEntry],
    searched: list[CandidateEntry],
    dense: Dense,
    ids: Mapping[str, str],
    latencies: Mapping[str, FinalLatency],
) -> TableRecord:
    by_seed = {entry.candidate.seed: entry for entry in seeds}  # the same seed twice is one measurement
    succeeded = [entry for _, entry in sorted(by_seed.items()) if entry.outcome.status == "ok"]
    shown = succeeded[0] if succeeded else seeds[0]
    method, strategy, target = shown.question
    latency = latencies.get(shown.key)
    # Several strategies may propose the same candidate, and rungs judge it several times: a key is paid for once.
    paid = list({entry.key: entry for entry in searched if entry.question == shown.question}.values())
    return {
        "candidate": ids[shown.key],
        "method": method,
        "strategy": strategy,
        "target": str(target),
        "seeds": len(succeeded),
        "failed": len(by_seed) - len(succeeded),
        **summarize_seeds([entry.outcome for entry in succeeded], dense),
        "kept_asked": ratio_or_none(shown.target_flops, dense.flops),
        "seconds": math.fsum(entry.outcome.seconds for entry in by_seed.values()),
        "searched": len({entry.candidate.without_rung for entry in paid}),
        "search_seconds": math.fsum(entry.outcome.seconds for entry in paid),
        **(latency_columns(latency) if latency else {}),
        "allocation": str(shown.allocation),
    }


def latency_columns(latency: FinalLatency) -> TableRecord:
    """The figures on the device of the run if they were measured there, and of each device with a table its own.

    Without such a measurement the first device's predictions stand in the columns without a device's name.
    """
    own = latency.measured or latency.predicted[0]
    columns: TableRecord = {
        "latency_ms": latency.measured and latency.measured.compressed_ms,
        "dense_latency_ms": own.dense_ms,
        "predicted_latency_ms": own.predicted_ms,
        "latency_device": own.where_text,
    }
    if latency.measured or len(latency.predicted) > 1:
        for item in latency.predicted:
            columns |= {
                f"dense_latency_ms:{item.device}": item.dense_ms,
                f"predicted_latency_ms:{item.device}": item.predicted_ms,
            }
    return columns


def summarize_seeds(outcomes: Sequence[Outcome], dense: Dense | None) -> TableRecord:
    """Test score and cost of a finalist over the seeds that succeeded, as columns of the table of finalists."""
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    mean = _mean_or_none(scores)
    dense_score = None if dense is None else dense.test_score
    flops = _mean_or_none(outcome.flops for outcome in outcomes)
    size = _mean_or_none(outcome.bytes for outcome in outcomes)
    others = [other_columns("test_score", outcome) for outcome in outcomes]
    return {
        **({name: _mean_or_none(seed[name] for seed in others) for name in others[0]} if others else {}),
        "test_score": mean,
        "test_std": statistics.stdev(scores) if len(scores) > 1 else None,
        "delta": None if mean is None or dense_score is None else mean - dense_score,
        "kept_flops": None if dense is None else ratio_or_none(flops, dense.flops),
        "flops": _round_or_none(flops),
        "params": _round_or_none(_mean_or_none(outcome.params for outcome in outcomes)),
        "bytes": _round_or_none(size),
        "compression": None if dense is None else ratio_or_none(dense.bytes, size),
        "epochs": _mean_or_none(outcome.epochs for outcome in outcomes),
    }


def table_records(frame: pd.DataFrame) -> list[TableRecord]:
    """The lines of a table as dictionaries, column -> cell."""
    return [dict(zip(frame.columns, cells, strict=True)) for cells in frame.itertuples(index=False, name=None)]


def figure_or_none(value: Any) -> float | None:
    """A table's figure, None where it is blank."""
    return None if pd.isna(value) else float(value)


def _typed_frame(records: list[TableRecord], types: Mapping[str, str]) -> pd.DataFrame:
    """All columns with their types, also when there is no record; other metrics follow the one that ranks."""
    present = dict.fromkeys(name for record in records for name in record if ":" in name)
    columns: dict[str, str] = {}
    for name, kind in types.items():
        columns |= {name: kind} | {other: "float64" for other in present if other.startswith(f"{name}:")}
    return pd.DataFrame(records, columns=list(columns)).astype(columns)


def ratio_or_none(numerator: float | None, denominator: float | None) -> float | None:
    """None where either is missing, or the denominator 0."""
    return None if numerator is None or not denominator else numerator / denominator


def _round_or_none(figure: float | None) -> int | None:
    return None if figure is None else round(figure)


def _mean_or_none(figures: Iterable[float | None]) -> float | None:
    """Of the figures that are there."""
    measured = [figure for figure in figures if figure is not None]
    return statistics.fmean(measured) if measured else None
