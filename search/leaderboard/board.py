"""Leaderboards as tables: for every method, strategy and target of a task, its finalist's figures on the test set.

Figures come from the ledger; commands, measured latencies and weights from the runs' folders. A missing figure is
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
from search.engine.standings import Standing, read_dense, read_standings, seedless_key
from search.export.config import CONFIG, read_config
from search.latency.check import FILE, CheckedLatency, read_latencies
from search.latency.timing import Latency
from search.leaderboard.commands import Commands
from search.leaderboard.reported import Reported, reported_for_task
from search.ledger.ledger import Ledger, list_tasks
from search.ledger.location import public_location
from search.ledger.record import Record
from search.ranking import Sample, candidate_name, rank_numbers, rank_tested, target_bands
from search.results.tables import Dense, figure_or_none, table_records

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
    """Columns `TYPES`, by falling band and accuracy."""
    reported: tuple[Reported, ...] = ()
    skipped: int = 0
    """Records of the ledger that cannot be read."""
    notices: tuple[str, ...] = ()
    """What a reader must know of the ledger's state."""


@dataclass(frozen=True)
class Answer:
    """A standing with the test outcomes of its finalist, by seed."""

    standing: Standing
    tested: Mapping[int, Record]

    @property
    def scored_records(self) -> list[Record]:
        """The records of the seeds that did not fail."""
        return [record for _, record in sorted(self.tested.items()) if record.outcome.accuracy is not None]


def find_tasks(location: str, wanted: Sequence[str]) -> list[str]:
    """Fingerprints of a ledger's tasks, each named by its title or by the beginning of its fingerprint.

    All of them where none is named; UserError for an unknown or ambiguous name, or a ledger without tasks.
    """
    titles = list_tasks(location)
    if not titles:
        raise UserError(f"ledger {public_location(location)} holds no task yet; `search` or `compare` fills it")
    return list(dict.fromkeys(_find_task(titles, name) for name in wanted)) or list(titles)


def _find_task(titles: Mapping[str, str], name: str) -> str:
    tasks = [task for task, title in titles.items() if name and (title == name or task.startswith(name))]
    if not tasks:
        raise unknown_name("task", name, [*titles.values(), *(task[:8] for task in titles)])
    if len(tasks) > 1:
        raise UserError(f"{len(tasks)} tasks are called {name!r}; name one of {', '.join(task[:8] for task in tasks)}")
    return tasks[0]


def read_boards(location: str, tasks: Sequence[str], results: Path) -> list[Board]:
    """The boards of tasks, given by fingerprint; UserError if no finalist of any has met the test set."""
    boards = []
    for task in tasks:
        with Ledger.open_existing(location, task) as ledger:
            boards.append(make_board(ledger, results))
    if all(board.frame.empty for board in boards):
        names = ", ".join(board.title for board in boards)
        raise UserError(
            f"ledger {public_location(location)} has no finalist of {names} on the test set; "
            "run `search` or `compare` first"
        )
    return boards


def board_of(location: str, task: str, results: Path) -> Board:
    """The board of one task; UserError if no finalist of it has met the test set."""
    return read_boards(location, [task], results)[0]


def make_board(ledger: Ledger, results: Path) -> Board:
    """The leaderboard of the ledger's task."""
    dense, answers = read_dense(ledger), answers_of(ledger)
    commands, latencies = Commands(results), measured_latencies(results, ledger.task)
    board_rows = [_board_row(answer, dense, ledger.title, commands, latencies) for answer in answers]
    frame = pd.DataFrame(board_rows, columns=[*TYPES, "images", "allocation"]).astype(TYPES)
    papers = tuple(reported_for_task(ledger.title))
    notices = (*ledger.notices, *commands.notices)
    return Board(ledger.task, ledger.title, dense, _rank_rows(frame), papers, ledger.skipped, notices)


def answers_of(ledger: Ledger) -> list[Answer]:
    """Every standing of the task with its test results."""
    tested: dict[str, dict[int, Record]] = {}
    for record in ledger.records():
        if record.candidate.judge == "test":
            tested.setdefault(seedless_key(record.candidate, ledger.task), {})[record.candidate.seed] = record
    return [Answer(standing, tested.get(standing.final or "", {})) for standing in read_standings(ledger)]


def _board_row(
    answer: Answer, dense: Dense | None, title: str, commands: Commands, latencies: Mapping[str, Latency]
) -> dict[str, Any]:
    """The columns of `TYPES` but rank and band, and what ranking needs besides: test images and allocation."""
    standing, scored = answer.standing, answer.scored_records
    outcomes = [record.outcome for record in scored]
    accuracies = [outcome.accuracy for outcome in outcomes if outcome.accuracy is not None]
    mean = statistics.fmean(accuracies) if accuracies else None
    flops, size = _mean_or_none(o.flops for o in outcomes), _mean_or_none(o.bytes for o in outcomes)
    dense_flops, dense_bytes = (dense.flops, dense.bytes) if dense else (None, None)
    dense_accuracy = dense.test_accuracy if dense else None
    latency = next((latencies[record.key] for record in scored if record.key in latencies), None)
    kept_asked = _ratio_or_none(standing.target_flops, dense_flops)
    kept_flops = _ratio_or_none(flops, dense_flops)
    return {
        "task": title,
        "rank": None,
        "row": standing.row,
        "method": standing.method,
        "options": ", ".join(f"{name}={value}" for name, value in standing.options.items()),
        "strategy": standing.strategy,
        "target": standing.target,
        "band": None,
        "dense_accuracy": dense_accuracy,
        "accuracy": mean,
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "n": len(accuracies),
        "delta_points": None if mean is None or dense_accuracy is None else 100 * (mean - dense_accuracy),
        "kept_asked": kept_asked,
        "kept_flops": kept_flops,
        "flops": _round_or_none(flops),
        "params": _round_or_none(_mean_or_none(o.params for o in outcomes)),
        "bytes": _round_or_none(size),
        "compression": _ratio_or_none(dense_bytes, size),
        "dense_latency_ms": latency and latency.dense_ms,
        "latency_ms": latency and latency.compressed_ms,
        "latency_device": latency and latency.where_text,
        "searched": standing.searched if standing.final else None,
        "search_seconds": standing.search_seconds if standing.final else None,
        "epochs": _mean_or_none(o.epochs for o in outcomes),
        "device": ", ".join(dict.fromkeys(o.device for o in outcomes if o.device)) or None,
        "run": standing.run,
        "command": commands.command_of(standing),
        "note": "; ".join(_row_notes(answer, kept_asked, kept_flops, latency)) or None,
        "images": min((outcome.images for outcome in outcomes), default=0),
        "allocation": str(scored[0].candidate.allocation or outcomes[0].allocation) if scored else "",
    }


def _row_notes(
    answer: Answer, kept_asked: float | None, kept_flops: float | None, latency: Latency | None
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
    flops_alone = not beyond_flops(standing.target)
    if flops_alone and kept_asked is not None and kept_flops is not None and kept_flops < kept_asked - TOLERANCE:
        notes.append(f"its FLOPs lie more than {TOLERANCE:.1%} of the dense ones below the target")
    if isinstance(latency, CheckedLatency) and latency.is_far_off:
        notes.append(f"the prediction of its latency is {latency.relative_error:+.0%} off")
    return notes


def _rank_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """With bands and ranks, by falling band, then accuracy; rows without an accuracy come last in their band."""
    # Targets asked for in different ways (0.5, 2x, 30M) compete where they mean the same FLOPs within the tolerance.
    frame["band"] = target_bands(frame["kept_asked"].fillna(0.0).tolist(), TOLERANCE)
    for _, rivals in frame.groupby(["band", frame["target"].map(beyond_flops)]):
        samples = [_test_sample(board_row) for board_row in table_records(rivals)]
        frame.loc[rivals.index, "rank"] = pd.array(rank_numbers(samples), dtype="Int64")
    by_band = [band_rows for _, band_rows in frame.groupby("band")]
    order = [label for band_rows in reversed(by_band) for label in _order_band(band_rows)]
    frame = frame.drop(columns=["images", "allocation"]).astype(TYPES)
    return frame.loc[order].reset_index(drop=True)


def _order_band(band_rows: pd.DataFrame) -> list[int]:
    """Labels of one band's rows as `search.ranking` orders finalists; those without a figure last, by name."""
    by_label = dict(zip(band_rows.index, table_records(band_rows), strict=True))
    names = {
        label: (*candidate_name(board_row["strategy"], board_row["method"], board_row["allocation"]), board_row["row"])
        for label, board_row in by_label.items()
    }
    samples = {
        label: sample for label, board_row in by_label.items() if (sample := _test_sample(board_row)) is not None
    }
    ranked = rank_tested(list(samples), list(samples.values()), [names[label] for label in samples])
    return [place.candidate for place in ranked] + sorted(by_label.keys() - samples.keys(), key=names.__getitem__)


def _test_sample(board_row: Mapping[str, Any]) -> Sample | None:
    if pd.isna(board_row["accuracy"]):
        return None
    std, flops = figure_or_none(board_row["std"]), figure_or_none(board_row["flops"])
    return Sample(board_row["accuracy"], std, board_row["n"], board_row["images"], flops)


def measured_latencies(results: Path, task: str) -> dict[str, Latency]:
    """Latencies of the task's finalists, by the candidate's key.

    A search for a target of latency leaves them in its folder; `export` into a folder below a run, where a batch of
    one is taken. Where both have measured a finalist, the figure of the search is shown.
    """
    latencies: dict[str, Latency] = {}
    for path in sorted(results.glob(f"*/*/{CONFIG}")):
        try:
            config = read_config(path.parent)
        except UserError:  # another program's, or of another version
            continue
        single = [latency for latency in config.metrics.latency if latency.batch == 1]
        if config.fingerprint == task and single:
            latencies[config.origin.candidate] = single[0]
    for path in sorted(results.glob(f"*/{FILE}")):
        latencies |= read_latencies(path)
    return latencies


def _mean_or_none(figures: Iterable[float | None]) -> float | None:
    measured = [figure for figure in figures if figure is not None]
    return statistics.fmean(measured) if measured else None


def _ratio_or_none(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def _round_or_none(figure: float | None) -> int | None:
    return None if figure is None else int(np.rint(figure))
