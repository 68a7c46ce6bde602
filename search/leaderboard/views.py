"""Which rows of a leaderboard are shown, in which order, and several leaderboards side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from models.errors import UserError, unknown_name
from models.tasks.metric import ACCURACY, Metric
from search.allocation.targets import TOLERANCE, parse_target
from search.leaderboard.board import Board
from search.results.dense import Dense
from search.results.metric_columns import name_columns, outside_names
from search.results.tables import table_records


@dataclass(frozen=True)
class Filter:
    """Which rows are shown; nothing named takes all."""

    methods: Sequence[str] = ()
    strategies: Sequence[str] = ()
    targets: Sequence[str] = ()


def select_rows(boards: Sequence[Board], wanted: Filter) -> list[Board]:
    """The boards with these rows alone, under the ranks that they have among all; UserError if none is left."""
    for column, names in (("method", wanted.methods), ("strategy", wanted.strategies)):
        present = {name for board in boards for name in board.frame[column]}
        for name in names:
            if name not in present:
                raise unknown_name(f"{column} on this leaderboard", name, present)
    filtered = [replace(board, frame=_filter_frame(board, wanted).reset_index(drop=True)) for board in boards]
    if all(board.frame.empty for board in filtered):
        targets = sorted({target for board in boards for target in board.frame["target"]})
        raise UserError(f"no row is left by these filters; targets on this leaderboard: {', '.join(targets)}")
    return filtered


def _filter_frame(board: Board, wanted: Filter) -> pd.DataFrame:
    frame = board.frame
    if wanted.methods:
        frame = frame[frame["method"].isin(list(wanted.methods))]
    if wanted.strategies:
        frame = frame[frame["strategy"].isin(list(wanted.strategies))]
    return frame[_meets_targets(frame, wanted.targets, board.dense)] if wanted.targets else frame


def _meets_targets(frame: pd.DataFrame, targets: Sequence[str], dense: Dense | None) -> pd.Series[bool]:
    """Which rows were asked for one of the targets, in whatever way: 2x, 0.5 and an amount of FLOPs can be one."""
    inside = pd.Series(False, index=frame.index)
    for text in targets:
        target = parse_target(text)
        if target.measures != ("flops",):
            # Other measures have no band: such a target is matched by its name.
            inside |= frame["target"] == target.asked
            continue
        (term,) = target.terms
        kept_flops = term.kept if term.kept is not None else term.limit_for(0) / (dense.flops if dense else math.nan)
        inside |= (frame["kept_asked"] - kept_flops).abs() <= TOLERANCE
    return inside


def sort_rows(frame: pd.DataFrame, by: str, metric: Metric = ACCURACY) -> pd.DataFrame:
    """By a column, as it is called outside, rising; falling with a `-` before its name. Blanks come last."""
    names = {outside: inside for inside, outside in outside_names(metric, frame.columns).items()}
    columns = {column: column for column in frame.columns if column not in names.values()} | names
    name = by.removeprefix("-")
    if columns.get(name) not in frame:
        raise unknown_name("column", name, name_columns(frame, metric).columns)
    return frame.sort_values(columns[name], ascending=not by.startswith("-"), kind="stable", ignore_index=True)


@dataclass(frozen=True)
class MeanRanks:
    """Of the tasks that one metric judges."""

    metric: Metric
    title: str
    frame: pd.DataFrame
    """`mean_ranks`."""


def mean_ranks_by_metric(boards: Sequence[Board]) -> list[MeanRanks]:
    """A table for every metric that judges several tasks: ranks by different metrics are never averaged."""
    groups: dict[str, list[Board]] = {}
    for board in boards:
        groups.setdefault(str(board.metric), []).append(board)
    names, tables = [group[0].metric.name for group in groups.values()], list[MeanRanks]()
    for text, group in groups.items():
        metric = group[0].metric
        of_metric = "" if len(groups) == 1 else f" of {metric.name if names.count(metric.name) == 1 else text}"
        title = f"mean rank over tasks{of_metric}"
        tables += [MeanRanks(metric, title, mean_ranks(group))] if len(group) > 1 else []
    return tables


def mean_ranks(boards: Sequence[Board]) -> pd.DataFrame:
    """Methods over tasks: the rank in each (a column each), and the mean for those that are ranked in all of them.

    Ranks among different rivals do not compare, so a competitor that lacks a task has no mean.
    """
    names = task_names(boards)
    ranks_of: dict[tuple[Any, ...], dict[str, Any]] = {}
    for board, name in zip(boards, names, strict=True):
        for board_row in table_records(board.frame):
            # Bands of two tasks are rarely equal to the last digit. Epochs tell cheap finalists from long trained ones.
            names_of_competitor = [board_row[column] for column in ("method", "options", "strategy")]
            competitor = (*names_of_competitor, round(board_row["band"], 3), board_row["epochs"])
            task_ranks = ranks_of.setdefault(competitor, dict.fromkeys(names))
            numbers = [rank for rank in (task_ranks[name], board_row["rank"]) if not pd.isna(rank)]
            task_ranks[name] = min(numbers, default=None)
    frame = pd.DataFrame(
        [[*competitor, *task_ranks.values()] for competitor, task_ranks in ranks_of.items()],
        columns=["method", "options", "strategy", "band", "epochs", *names],
    ).astype(dict.fromkeys(names, "Int64"))
    ranked = frame[names].notna().all(axis=1)
    frame.insert(5, "mean_rank", frame[names].astype("Float64").mean(axis=1).where(ranked).astype("float64"))
    frame = frame[frame[names].notna().any(axis=1)]
    return frame.sort_values(["band", "mean_rank", "method"], ascending=[False, True, True], ignore_index=True)


def task_names(boards: Sequence[Board]) -> list[str]:
    """Titles, with the beginning of the fingerprint where two tasks share one."""
    titles = [board.title for board in boards]
    return [board.title if titles.count(board.title) == 1 else f"{board.title} [{board.task[:8]}]" for board in boards]
