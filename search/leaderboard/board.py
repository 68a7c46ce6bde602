"""The leaderboards of a ledger, one for each of its tasks.

Figures come from the ledger; commands, measured latencies and weights from the runs' folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from models.errors import UserError, unknown_name
from models.tasks.metric import ACCURACY, Metric
from search.engine.standings import read_dense
from search.export.config import CONFIG, read_config
from search.latency.check import FILE, read_latencies
from search.latency.predicted import FILE as PREDICTED_FILE
from search.latency.predicted import PredictedLatency, read_predictions
from search.latency.timing import Latency
from search.leaderboard.answers import answers_of
from search.leaderboard.board_rows import TYPES, KnownLatency, make_row
from search.leaderboard.commands import Commands
from search.leaderboard.ranked_rows import rank_rows
from search.leaderboard.reported import Reported, reported_for_task
from search.ledger.ledger import Ledger, list_tasks
from search.ledger.location import public_location
from search.results.dense import Dense
from search.results.metric_columns import name_columns


@dataclass(frozen=True, eq=False)
class Board:
    """The leaderboard of one task."""

    task: str
    """Its fingerprint."""
    title: str
    dense: Dense | None
    frame: pd.DataFrame
    """Columns `TYPES`, by falling band, the best first."""
    reported: tuple[Reported, ...] = ()
    skipped: int = 0
    """Records of the ledger that cannot be read."""
    notices: tuple[str, ...] = ()
    """What a reader must know of the ledger's state."""

    @property
    def metric(self) -> Metric:
        """That ranks its rows."""
        return ACCURACY if self.dense is None else self.dense.metric

    @property
    def named_frame(self) -> pd.DataFrame:
        """The frame as it is shown outside, its scores under the metric's name."""
        return name_columns(self.frame, self.metric)


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
    metric = ACCURACY if dense is None else dense.metric
    commands, latencies = Commands(results), known_latencies(results, ledger.task)
    board_rows = [make_row(answer, dense, ledger.title, commands, latencies) for answer in answers]
    frame = pd.DataFrame(board_rows, columns=[*TYPES, "images", "allocation"]).astype(TYPES)
    papers = tuple(reported_for_task(ledger.title))
    notices = (*ledger.notices, *commands.notices)
    return Board(ledger.task, ledger.title, dense, rank_rows(frame, metric), papers, ledger.skipped, notices)


def known_latencies(results: Path, task: str) -> dict[str, KnownLatency]:
    """Latencies of the task's finalists by the candidate's key: measured, and predicted for devices with tables."""
    measured, predicted = measured_latencies(results, task), dict[str, tuple[PredictedLatency, ...]]()
    for path in sorted(results.glob(f"*/{PREDICTED_FILE}")):
        for key, predictions in read_predictions(path).items():
            known = {item.where_text: item for item in (*predicted.get(key, ()), *predictions)}
            predicted[key] = tuple(known.values())
    return {key: KnownLatency(measured.get(key), predicted.get(key, ())) for key in {**measured, **predicted}}


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
