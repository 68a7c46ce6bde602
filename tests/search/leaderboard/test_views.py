"""Which rows of a leaderboard are shown, in which order, and ranks over several tasks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from board_fakes import DENSE, TASK, add_row, filled, final, judged, printed

from models.errors import UserError
from models.tasks.metric import ACCURACY, Metric
from search.engine.standings import store_dense
from search.leaderboard.board import Board, find_tasks, read_boards
from search.leaderboard.views import Filter, mean_ranks, mean_ranks_by_metric, select_rows, sort_rows
from search.ledger.ledger import Ledger
from search.results.metric_columns import name_columns
from search.results.tables import table_records


def test_filters_keep_the_ranks_among_all(board: Board) -> None:
    (shown,) = select_rows([board], Filter(methods=["l1"], targets=["2x"]))
    assert list(shown.frame["method"]) == ["l1"]
    assert list(shown.frame["rank"]) == [2]
    assert set(select_rows([board], Filter(strategies=["lagrangian"]))[0].frame["method"]) == {"fpgm"}
    assert set(select_rows([board], Filter(targets=["0.3M"]))[0].frame["target"]) == {"0.3"}


@pytest.mark.parametrize("column", ["accuracy", "-accuracy", "kept_flops"])
def test_sorting_puts_blanks_last(board: Board, column: str) -> None:
    values = name_columns(sort_rows(board.frame, column))[column.removeprefix("-")].tolist()
    known = [value for value in values if not pd.isna(value)]
    assert known == sorted(known, reverse=column.startswith("-"))
    assert all(pd.isna(value) for value in values[len(known) :])


def test_mean_ranks_over_tasks_by_hand(path: str, tmp_path: Path) -> None:
    filled(path).close()
    with Ledger(path, "ffff", "vgg16-cifar on cifar10") as second:
        store_dense(second, DENSE)
        add_row(second, "l1", "0.5", (0.94, 0.941, 0.942))
        add_row(second, "kse", "0.5", (0.90, 0.901, 0.902))
    boards = read_boards(path, find_tasks(path, []), tmp_path)
    lines = {(line["method"], line["band"]): line for line in table_records(mean_ranks(boards))}
    assert lines["l1", 0.5]["mean_rank"] == 1.5  # 2 and 1
    assert lines["kse", 0.5]["mean_rank"] == 1.5  # 1 and 2
    assert pd.isna(lines["fpgm", 0.5]["mean_rank"])  # not in both
    assert lines["fpgm", 0.5]["resnet56 on cifar10"] == 2
    assert ("taylor", 0.5) not in lines  # ranked nowhere


def test_ranks_by_different_metrics_are_never_averaged(path: str, tmp_path: Path) -> None:
    """Two tasks that accuracy judges, and two that an error does, of which less is better."""
    filled(path).close()
    error = Metric(name="MAE", unit="mm", lower_is_better=True)
    for task, metric in (("aaaa", ACCURACY), ("bbbb", error), ("cccc", error)):
        with Ledger(path, task, f"net on {task}", metric) as ledger:
            store_dense(ledger, replace(DENSE, metric=metric))
            for method, scores in (("l1", (0.94, 0.941, 0.942)), ("kse", (0.90, 0.901, 0.902))):
                add_row(ledger, method, "0.5", ())
                for seed, score in enumerate(scores):
                    outcome = judged(score, 0.5).model_copy(update={"metric": metric, "metrics": {metric.name: score}})
                    ledger.add(final(method, 0.5, seed), outcome)
    boards = read_boards(path, find_tasks(path, []), tmp_path)
    tables = {ranks.metric: ranks for ranks in mean_ranks_by_metric(boards)}
    assert [ranks.title for ranks in tables.values()] == [
        "mean rank over tasks of accuracy", "mean rank over tasks of MAE"]  # fmt: skip
    ranked = table_records(tables[error].frame)
    assert {line["method"]: (line["net on bbbb"], line["net on cccc"], line["mean_rank"]) for line in ranked} == {
        "kse": (1, 1, 1.0), "l1": (2, 2, 2.0)}  # fmt: skip
    assert list(tables[ACCURACY].frame.columns[6:]) == ["resnet56 on cifar10", "net on aaaa"]
    records = json.loads(printed(path, tmp_path, "json"))["mean_ranks"]
    assert [record.get("metric") for record in records].count("MAE, mm, lower is better") == 2
    for form in ("table", "md", "tex"):
        text = printed(path, tmp_path, form)
        assert all(ranks.title in text for ranks in tables.values())
    page = printed(path, tmp_path, "html", out=tmp_path / "board.html")
    assert all(ranks.title.capitalize().replace("mae", "MAE") in page for ranks in tables.values())


def test_metrics_of_one_name_and_two_units_have_titles_of_their_own(board: Board) -> None:
    def title_of(*texts: str) -> list[str]:
        metrics = [Metric.parse(text) for text in texts]
        boards = [replace(board, task=f"{place}{metric}", title=f"{place}{metric}", dense=replace(DENSE, metric=metric))
                  for metric in metrics for place in "ab"]  # fmt: skip
        return [ranks.title for ranks in mean_ranks_by_metric(boards)]

    assert title_of("MAE, EUR", "MAE") == ["mean rank over tasks of MAE, EUR", "mean rank over tasks of MAE"]
    assert title_of("MAE, EUR", "PSNR, dB") == ["mean rank over tasks of MAE", "mean rank over tasks of PSNR"]


def test_two_tasks_of_one_title_are_told_apart(path: str, tmp_path: Path) -> None:
    filled(path).close()
    filled(path, task="ffff0000ffff").close()
    with pytest.raises(UserError, match=r"2 tasks are called 'resnet56 on cifar10'; name one of 01234567, ffff0000"):
        find_tasks(path, ["resnet56 on cifar10"])
    assert find_tasks(path, ["ffff"]) == ["ffff0000ffff"]
    boards = read_boards(path, find_tasks(path, []), tmp_path)
    names = ["resnet56 on cifar10 [01234567]", "resnet56 on cifar10 [ffff0000]"]
    assert list(mean_ranks(boards).columns[6:]) == names
    text = printed(path, tmp_path, "table")
    assert all(f"rank, {name}" in text for name in names)


def test_mistakes_are_one_sentence(path: str, tmp_path: Path, board: Board) -> None:
    empty = str(tmp_path / "empty.db")
    Ledger(empty, TASK, "t").close()
    for call, words in (
        (lambda: find_tasks(str(tmp_path / "none.db"), []), "there is no ledger"),
        (lambda: find_tasks(empty, []), "holds no task yet"),
        (lambda: find_tasks(path, ["resnet65 on cifar10"]), "did you mean resnet56 on cifar10?"),
        (lambda: printed(path, tmp_path, "xls"), "unknown format 'xls'"),
        (lambda: printed(path, tmp_path, "csv", sort="acuracy"), "did you mean accuracy"),
        (lambda: printed(path, tmp_path, "csv", method=["ksee"]), "did you mean kse?"),
        (lambda: printed(path, tmp_path, "csv", target=["0.9"]), "no row is left"),
        (lambda: printed(path, tmp_path, "csv", target=["fast"]), "target 'fast' is not understood"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            call()
