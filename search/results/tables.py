"""The tables of a run: every candidate, the front, the finalists. A missing figure is blank, never guessed.

FLOPs are multiply-accumulates for one input, `kept` a share of the dense network, accuracies lie in 0..1,
`delta_points` is in percentage points, seconds are the workers'.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from methods.base import Allocation
from search.candidate import Candidate, Outcome
from search.files.atomic import atomic_write
from search.latency.check import CheckedLatency

SHORT = 8  # characters of a key that name a candidate in tables
CANDIDATE_TYPES = {
    "candidate": "str",
    "stage": "str",
    "method": "str",
    "strategy": "str",
    "target": "str",
    "seed": "Int64",
    "status": "str",
    "reason": "str",
    "accuracy": "float64",
    "loss": "float64",
    "drift": "float64",
    "merit": "float64",
    "images": "Int64",
    "test_accuracy": "float64",
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
    "test_accuracy": "float64",
    "test_std": "float64",
    "delta_points": "float64",
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


@dataclass(frozen=True)
class Dense:
    """The network before compression; an accuracy that was not measured is None."""

    flops: int
    params: int
    bytes: int
    search_accuracy: float | None
    test_accuracy: float | None


@dataclass(frozen=True)
class Row:
    """One candidate as a strategy asked for it, and what came of it."""

    key: str
    stage: Literal["search", "rung", "final"]
    """`rung`: judged on the way; who went on has a row of its own for the end."""
    method: str
    strategy: str
    target: str
    """As the user asked for it, e.g. `0.5` or `60M`."""
    target_flops: int | None
    """None for a target that does not speak of FLOPs."""
    candidate: Candidate
    outcome: Outcome


def short_ids(keys: Iterable[str]) -> dict[str, str]:
    """The first eight characters of each key, more where two keys share them."""
    distinct = list(dict.fromkeys(keys))
    length = SHORT
    while len({key[:length] for key in distinct}) < len(distinct):
        length += 1
    return {key: key[:length] for key in distinct}


def candidates_frame(rows: Sequence[Row], dense: Dense) -> pd.DataFrame:
    """One line per row, in their order. `loss` is that of the images that judged the candidate."""
    ids = short_ids(row.key for row in rows)
    return _typed_frame([_candidate_record(row, dense, ids[row.key]) for row in rows], CANDIDATE_TYPES)


def _candidate_record(row: Row, dense: Dense, candidate: str) -> dict[str, Any]:
    outcome = row.outcome
    on_test = row.candidate.judge == "test"
    return {
        "candidate": candidate,
        "stage": row.stage,
        "method": row.method,
        "strategy": row.strategy,
        "target": row.target,
        "seed": row.candidate.seed,
        "status": outcome.status,
        "reason": outcome.reason,
        "accuracy": None if on_test else outcome.accuracy,
        "loss": outcome.loss,
        "drift": outcome.drift,
        "merit": outcome.merit,
        "images": outcome.images or None,
        "test_accuracy": outcome.accuracy if on_test else None,
        "flops": outcome.flops,
        "kept_flops": _ratio(outcome.flops, dense.flops),
        "params": outcome.params,
        "kept_params": _ratio(outcome.params, dense.params),
        "bytes": outcome.bytes,
        "compression": _ratio(dense.bytes, outcome.bytes),
        "epochs": outcome.epochs,
        "seconds": outcome.seconds,
        "device": outcome.device,
        "key": row.key,
        "learned_target": row.candidate.learned_target,
        "allocation": str(allocation_of(row)),
    }


def allocation_of(row: Row) -> Allocation:
    """What the candidate was given, or, for a method that learns its widths, what it arrived at."""
    return row.candidate.allocation or row.outcome.allocation or Allocation()


def pareto_front(frame: pd.DataFrame, x: str = "flops", y: str = "accuracy") -> pd.DataFrame:
    """The searched candidates that no other beats with less `x` and more `y`, by rising `x`; equal figures once."""
    judged = frame[(frame["stage"] == "search") & (frame["status"] == "ok") & frame[x].notna() & frame[y].notna()]
    ordered = judged.sort_values([x, y], ascending=[True, False], kind="stable")
    values = ordered[y].to_numpy(dtype=float)
    best_so_far = np.maximum.accumulate(np.concatenate([[-np.inf], values]))[:-1]
    return ordered[values > best_so_far].reset_index(drop=True)


def finals_frame(rows: Sequence[Row], dense: Dense, checked: Mapping[str, CheckedLatency] | None = None) -> pd.DataFrame:
    """Test results, one line per finalist over its seeds; `std` is the sample's (n − 1) and blank for one seed.

    `candidate` and `allocation` are those of the first seed that succeeded. `searched` and `search_seconds` say how
    many candidates, and how much of the workers' time, the same method and strategy took for the same target.

    Args:
        checked: key -> measured latency, of those for a target that asks for it.
    """
    ids = short_ids(row.key for row in rows)
    groups: dict[tuple[str, str, str, Candidate], list[Row]] = {}
    for row in rows:
        if row.stage == "final" and row.candidate.judge == "test":
            # Everything but the seed: seeds of different allocations are never averaged.
            question = (row.method, row.strategy, row.target, row.candidate.without_seed)
            groups.setdefault(question, []).append(row)
    searched = [row for row in rows if row.stage != "final"]
    return _typed_frame([_final_record(group, searched, dense, ids, checked or {}) for group in groups.values()], FINAL_TYPES)


def _final_record(
    group: list[Row], searched: list[Row], dense: Dense, ids: Mapping[str, str], checked: Mapping[str, CheckedLatency]
) -> dict[str, Any]:
    first, by_seed = group[0], {row.candidate.seed: row for row in group}  # the same seed twice is one measurement
    good = sorted((row for row in by_seed.values() if row.outcome.status == "ok"), key=lambda row: row.candidate.seed)
    outcomes = [row.outcome for row in good]
    accuracies = [outcome.accuracy for outcome in outcomes if outcome.accuracy is not None]
    mean = _mean(accuracies)
    flops, size = _mean(o.flops for o in outcomes), _mean(o.bytes for o in outcomes)
    shown = good[0] if good else first
    latency = checked.get(shown.key)
    cost = list({row.key: row for row in searched if _same_question(row, first)}.values())
    return {
        "candidate": ids[shown.key],
        "method": first.method,
        "strategy": first.strategy,
        "target": first.target,
        "seeds": len(good),
        "failed": len(by_seed) - len(good),
        "test_accuracy": mean,
        "test_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "delta_points": None if mean is None or dense.test_accuracy is None else 100 * (mean - dense.test_accuracy),
        "kept_asked": _ratio(first.target_flops, dense.flops),
        "kept_flops": _ratio(flops, dense.flops),
        "flops": _whole(flops),
        "params": _whole(_mean(o.params for o in outcomes)),
        "bytes": _whole(size),
        "compression": _ratio(dense.bytes, size),
        "epochs": _mean(o.epochs for o in outcomes),
        "seconds": math.fsum(row.outcome.seconds for row in by_seed.values()),
        "searched": len({row.candidate.without_rung for row in cost}),
        "search_seconds": math.fsum(row.outcome.seconds for row in cost),
        "latency_ms": latency and latency.compressed_ms,
        "dense_latency_ms": latency and latency.dense_ms,
        "predicted_latency_ms": latency and latency.predicted_ms,
        "latency_device": latency and latency.where_text,
        "allocation": str(allocation_of(shown)),
    }


def _same_question(one: Row, other: Row) -> bool:
    return (one.method, one.strategy, one.target) == (other.method, other.strategy, other.target)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` as CSV, whole or not at all.

    A text cell that a spreadsheet would run as a formula (it begins with `= + - @` or a control character, and is
    not a number) gets an apostrophe in front, the spreadsheet's own mark for text; figures are left as they are.
    """
    safe = frame.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = safe[column].map(inert_cell, na_action="ignore")
    atomic_write(path, safe.to_csv(index=False, lineterminator="\n"))


def inert_cell(cell: object) -> object:
    """A table cell that no spreadsheet runs as a formula."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def table_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table as dictionaries, column -> cell."""
    return [dict(zip(frame.columns, line, strict=True)) for line in frame.itertuples(index=False, name=None)]


def figure_or_none(value: Any) -> float | None:
    """A table's figure, None where it is blank."""
    return None if pd.isna(value) else float(value)


def _typed_frame(lines: list[dict[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """All columns with their types, also when there is no record."""
    return pd.DataFrame(lines, columns=list(types)).astype(dict(types))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
