"""Which rows of a leaderboard are shown, in which order, and several leaderboards side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from models.errors import UserError, unknown_name
from search.allocation.targets import TOLERANCE, parse_target
from search.leaderboard.board import Board
from search.results.tables import Dense, records


@dataclass(frozen=True)
class Filter:
    """Which rows are shown; nothing named takes all."""

    methods: Sequence[str] = ()
    strategies: Sequence[str] = ()
    targets: Sequence[str] = ()


def select(boards: Sequence[Board], wanted: Filter) -> list[Board]:
    """The boards with these rows alone, under the ranks that they have among all; UserError if none is left."""
    for column, names in (("method", wanted.methods), ("strategy", wanted.strategies)):
        known = {name for each in boards for name in each.frame[column]}
        for name in names:
            if name not in known:
                raise unknown_name(f"{column} on this leaderboard", name, known)
    chosen = [replace(each, frame=_rows(each, wanted).reset_index(drop=True)) for each in boards]
    if all(each.frame.empty for each in chosen):
        known_targets = sorted({target for each in boards for target in each.frame["target"]})
        raise UserError(f"no row is left by these filters; targets on this leaderboard: {', '.join(known_targets)}")
    return chosen


def _rows(board: Board, wanted: Filter) -> pd.DataFrame:
    frame = board.frame
    if wanted.methods:
        frame = frame[frame["method"].isin(list(wanted.methods))]
    if wanted.strategies:
        frame = frame[frame["strategy"].isin(list(wanted.strategies))]
    return frame[_in_band(frame, wanted.targets, board.dense)] if wanted.targets else frame


def _in_band(frame: pd.DataFrame, targets: Sequence[str], dense: Dense | None) -> pd.Series[bool]:
    inside = pd.Series(False, index=frame.index)
    for text in targets:
        target = parse_target(text)
        if target.measures != ("flops",):
            inside |= frame["target"] == target.asked
            continue
        (part,) = target.terms
        kept = part.kept if part.kept is not None else part.limit_for(0) / (dense.flops if dense else math.nan)
        inside |= (frame["kept_asked"] - kept).abs() <= TOLERANCE
    return inside


def sort(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """By a column, rising; falling with a `-` before its name. Blanks come last."""
    name = by.removeprefix("-")
    if name not in frame:
        raise unknown_name("column", name, frame.columns)
    return frame.sort_values(name, ascending=not by.startswith("-"), kind="stable", ignore_index=True)


def mean_ranks(boards: Iterable[Board]) -> pd.DataFrame:
    """Methods over tasks: the rank in each (a column each), and the mean for those that are ranked in all of them.

    Ranks among different rivals do not compare, so a line that lacks a task has no mean.
    """
    boards = list(boards)
    names = task_names(boards)
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each, name in zip(boards, names, strict=True):
        for row in records(each.frame):
            who = (row["method"], row["options"], row["strategy"], round(row["band"], 3), row["epochs"])
            line = lines.setdefault(who, dict.fromkeys(names))
            best = [rank for rank in (line[name], row["rank"]) if not pd.isna(rank)]
            line[name] = min(best, default=None)
    frame = pd.DataFrame(
        [[*who[:3], who[3], who[4], *line.values()] for who, line in lines.items()],
        columns=["method", "options", "strategy", "band", "epochs", *names],
    ).astype(dict.fromkeys(names, "Int64"))
    ranked = frame[names].notna().all(axis=1)
    frame.insert(5, "mean_rank", frame[names].astype("Float64").mean(axis=1).where(ranked).astype("float64"))
    frame = frame[frame[names].notna().any(axis=1)]
    return frame.sort_values(["band", "mean_rank", "method"], ascending=[False, True, True], ignore_index=True)


def task_names(boards: Sequence[Board]) -> list[str]:
    """Titles, with the beginning of the fingerprint where two tasks share one."""
    titles = [each.title for each in boards]
    return [each.title if titles.count(each.title) == 1 else f"{each.title} [{each.task[:8]}]" for each in boards]
