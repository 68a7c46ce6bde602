"""What is known of a task, as a table: every method and strategy's answer to a target, on the test set.

All figures come from the ledger; commands, measured latencies and weights from the runs' folders. A missing figure is
blank, never guessed. FLOPs are multiply-accumulates for one input, accuracies and kept shares lie in 0..1,
`delta_points` is in percentage points, `search_seconds` are the workers', latencies milliseconds of one batch, of one
image where `latency_device` names no other.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.errors import UserError, commonest_reason, unknown_name
from models.wording import plural
from search.allocation.targets import TOLERANCE, beyond_flops
from search.engine.standings import Standing, dense_of, family, standings
from search.export.config import CONFIG, read_config
from search.latency.check import FILE, Checked, read_latencies
from search.latency.timing import Latency
from search.leaderboard.commands import Commands
from search.leaderboard.reported import Reported, reported
from search.ledger.ledger import Ledger, list_tasks
from search.ledger.location import public_location
from search.ledger.record import Record
from search.ranking import Sample, bands, candidate_name, rank_tested, ranks
from search.results.tables import Dense, figure_or_none, records

TYPES = {
    "task": "str",
    "rank": "Int64",
    "row": "str",
    "method": "str",
    "options": "str",
    "strategy": "str",
    "target": "str",
    "band": "float64",
    "dense_accuracy": "float64",
    "accuracy": "float64",
    "std": "float64",
    "n": "Int64",
    "delta_points": "float64",
    "kept_asked": "float64",
    "kept_flops": "float64",
    "flops": "Int64",
    "params": "Int64",
    "bytes": "Int64",
    "compression": "float64",
    "dense_latency_ms": "float64",
    "latency_ms": "float64",
    "latency_device": "str",
    "searched": "Int64",
    "search_seconds": "float64",
    "epochs": "float64",
    "device": "str",
    "run": "str",
    "command": "str",
    "note": "str",
}
ONE_SEED = "one seed: its noise is unknown, so it has no rank"


@dataclass(frozen=True, eq=False)
class Board:
    """The leaderboard of one task."""

    task: str
    """Its fingerprint."""
    title: str
    dense: Dense | None
    frame: pd.DataFrame
    """One line a row, columns `TYPES`, by falling band and accuracy."""
    reported: tuple[Reported, ...] = ()
    skipped: int = 0
    """Records of the ledger that cannot be read."""
    notices: tuple[str, ...] = ()
    """What a reader must know of the ledger's state."""


@dataclass(frozen=True)
class Answer:
    """A standing with the test outcomes that are known of it, by seed."""

    standing: Standing
    tested: Mapping[int, Record]

    @property
    def good(self) -> list[Record]:
        return [record for _, record in sorted(self.tested.items()) if record.outcome.accuracy is not None]


def find_tasks(location: str, wanted: Sequence[str]) -> list[str]:
    """Fingerprints of the tasks of a ledger that are called so, by title or by the beginning of the fingerprint.

    All of them where none is wanted; UserError for an unknown or ambiguous one, or a ledger without tasks.
    """
    known = list_tasks(location)
    if not known:
        raise UserError(f"ledger {public_location(location)} holds no task yet; `search` or `compare` fills it")
    return list(dict.fromkeys(_find_task(known, name) for name in wanted)) or list(known)


def _find_task(known: Mapping[str, str], name: str) -> str:
    found = [task for task, title in known.items() if name and (title == name or task.startswith(name))]
    if not found:
        raise unknown_name("task", name, [*known.values(), *(task[:8] for task in known)])
    if len(found) > 1:
        raise UserError(f"{len(found)} tasks are called {name!r}; name one of {', '.join(task[:8] for task in found)}")
    return found[0]


def read_boards(location: str, tasks: Sequence[str], results: Path) -> list[Board]:
    """The boards of tasks, given by fingerprint; UserError if nothing of them has met the test set."""
    boards = []
    for task in tasks:
        with Ledger.open_existing(location, task) as ledger:
            boards.append(board(ledger, results))
    if all(each.frame.empty for each in boards):
        names = ", ".join(each.title for each in boards)
        raise UserError(
            f"ledger {public_location(location)} has no finalist of {names} on the test set; "
            "run `search` or `compare` first"
        )
    return boards


def board_of(location: str, task: str, results: Path) -> Board:
    """The board of one task; UserError if nothing of it has met the test set."""
    return read_boards(location, [task], results)[0]


def board(ledger: Ledger, results: Path) -> Board:
    """The leaderboard of the ledger's task."""
    dense, answers = dense_of(ledger), answers_of(ledger)
    commands, latencies = Commands(results), latencies_of(results, ledger.task)
    lines = [_line(answer, dense, ledger.title, commands, latencies) for answer in answers]
    frame = pd.DataFrame(lines, columns=[*TYPES, "images", "allocation"]).astype(TYPES)
    papers = tuple(reported(ledger.title))
    notices = (*ledger.notices, *commands.notices)
    return Board(ledger.task, ledger.title, dense, _ranked(frame), papers, ledger.skipped, notices)


def answers_of(ledger: Ledger) -> list[Answer]:
    """Every standing of the task with its test results."""
    tested: dict[str, dict[int, Record]] = {}
    for record in ledger.records():
        if record.candidate.judge == "test":
            tested.setdefault(family(record.candidate, ledger.task), {})[record.candidate.seed] = record
    return [Answer(standing, tested.get(standing.final or "", {})) for standing in standings(ledger)]


def _line(
    answer: Answer, dense: Dense | None, title: str, commands: Commands, latencies: Mapping[str, Latency]
) -> dict[str, Any]:
    standing, good = answer.standing, answer.good
    outcomes = [record.outcome for record in good]
    accuracies = [outcome.accuracy for outcome in outcomes if outcome.accuracy is not None]
    mean = statistics.fmean(accuracies) if accuracies else None
    flops, size = _mean(o.flops for o in outcomes), _mean(o.bytes for o in outcomes)
    dense_flops, dense_bytes = (dense.flops, dense.bytes) if dense else (None, None)
    latency = next((latencies[record.key] for record in good if record.key in latencies), None)
    kept, asked = _ratio(flops, dense_flops), _ratio(standing.target_flops, dense_flops)
    return {
        "task": title,
        "rank": None,
        "row": standing.row,
        "method": standing.method,
        "options": ", ".join(f"{name}={value}" for name, value in standing.options.items()),
        "strategy": standing.strategy,
        "target": standing.target,
        "band": None,
        "dense_accuracy": dense and dense.test_accuracy,
        "accuracy": mean,
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "n": len(accuracies),
        "delta_points": _delta(mean, dense),
        "kept_asked": asked,
        "kept_flops": kept,
        "flops": _whole(flops),
        "params": _whole(_mean(o.params for o in outcomes)),
        "bytes": _whole(size),
        "compression": _ratio(dense_bytes, size),
        "dense_latency_ms": latency and latency.dense_ms,
        "latency_ms": latency and latency.compressed_ms,
        "latency_device": latency and latency.where,
        "searched": standing.searched if standing.final else None,
        "search_seconds": standing.search_seconds if standing.final else None,
        "epochs": _mean(o.epochs for o in outcomes),
        "device": ", ".join(dict.fromkeys(o.device for o in outcomes if o.device)) or None,
        "run": standing.run,
        "command": commands.of(standing),
        "note": "; ".join([*_notes(answer, asked, kept), *_far(latency)]) or None,
        "images": min((outcome.images for outcome in outcomes), default=0),
        "allocation": str(good[0].candidate.allocation or outcomes[0].allocation) if good else "",
    }


def _far(latency: Latency | None) -> list[str]:
    if isinstance(latency, Checked) and latency.far:
        return [f"the prediction of its latency is {latency.off:+.0%} off"]
    return []


def _notes(answer: Answer, asked: float | None, kept: float | None) -> list[str]:
    """What a reader must know of a row besides its figures."""
    standing, failures = answer.standing, [r for r in answer.tested.values() if r.outcome.status == "failed"]
    if standing.final is None:
        return [standing.reason or "no finalist"]
    found = [f"under {shlex.join(standing.constraints)}"] if standing.constraints else []
    if not answer.tested:
        found.append("its finalist has not met the test set yet, or did so under an earlier version")
    if len(answer.good) == 1:
        found.append(ONE_SEED)
    if failures:
        reason = commonest_reason(failure.outcome.reason or "no reason given" for failure in failures)
        found.append(f"{len(failures)} of {plural(len(answer.tested), 'seed')} failed: {reason}")
    alone = not beyond_flops(standing.target)
    if alone and asked is not None and kept is not None and kept < asked - TOLERANCE:
        found.append(f"its FLOPs lie more than {TOLERANCE:.1%} of the dense ones below the target")
    return found


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """With bands and ranks, by falling band, then accuracy; what has none comes last in its band."""
    frame["band"] = bands(frame["kept_asked"].fillna(0.0).tolist(), TOLERANCE)
    for _, rows in frame.groupby(["band", frame["target"].map(beyond_flops)]):
        samples = [_sample(line) for line in records(rows)]
        frame.loc[rows.index, "rank"] = pd.array(ranks(samples), dtype="Int64")
    by_band = [rows for _, rows in frame.groupby("band")]
    order = [label for rows in reversed(by_band) for label in _order(rows)]
    frame = frame.drop(columns=["images", "allocation"]).astype(TYPES)
    return frame.loc[order].reset_index(drop=True)


def _order(rows: pd.DataFrame) -> list[int]:
    """Labels of one band's rows as `search.ranking` orders finalists; those without a figure last, by name."""
    lines = dict(zip(rows.index, records(rows), strict=True))
    names = {
        label: (*candidate_name(line["strategy"], line["method"], line["allocation"]), line["row"])
        for label, line in lines.items()
    }
    samples = {label: sample for label, line in lines.items() if (sample := _sample(line)) is not None}
    ranked = rank_tested(list(samples), list(samples.values()), [names[label] for label in samples])
    return [place.candidate for place in ranked] + sorted(lines.keys() - samples.keys(), key=names.__getitem__)


def _sample(line: Mapping[str, Any]) -> Sample | None:
    if pd.isna(line["accuracy"]):
        return None
    std, flops = figure_or_none(line["std"]), figure_or_none(line["flops"])
    return Sample(line["accuracy"], std, line["n"], line["images"], flops)


def latencies_of(results: Path, task: str) -> dict[str, Latency]:
    """Key of a finalist -> its latency, as a search for a target of latency measured it; of others, for a batch of one,
    as `export` measured it into a folder below `results`."""
    found: dict[str, Latency] = {}
    for path in sorted(results.glob(f"*/*/{CONFIG}")):
        try:
            config = read_config(path.parent)
        except UserError:  # another program's, or of another version
            continue
        if config.fingerprint == task and (single := [each for each in config.metrics.latency if each.batch == 1]):
            found[config.origin.candidate] = single[0]
    for path in sorted(results.glob(f"*/{FILE}")):
        found |= read_latencies(path)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _delta(mean: float | None, dense: Dense | None) -> float | None:
    if mean is None or dense is None or dense.test_accuracy is None:
        return None
    return 100 * (mean - dense.test_accuracy)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(np.rint(value))
