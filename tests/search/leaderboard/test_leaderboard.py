"""The leaderboard: figures by hand, filters, order and notes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from board_fakes import DENSE, TASK, add_row, filled, final, judged, printed

from models.errors import UserError
from search.allocation.targets import parse_target
from search.candidate import failed_outcome
from search.engine.standings import finalist_standings, read_dense, read_standings, seedless_key, store_dense
from search.export.config import CONFIG, read_config
from search.latency.check import FILE
from search.leaderboard.board import Board, find_tasks, read_boards
from search.leaderboard.board_rows import ONE_SEED
from search.leaderboard.views import Filter, mean_ranks, select_rows, sort_rows
from search.ledger.ledger import Ledger, list_tasks
from search.results.tables import Dense, table_records
from search.strategies.contract import Proposal


def row(board: Board, method: str, target: str) -> dict[str, object]:
    found = [line for line in table_records(board.frame) if (line["method"], line["target"]) == (method, target)]
    assert len(found) == 1
    return found[0]


# ---- rows


def test_figures_of_a_row(board: Board) -> None:
    line = row(board, "l1", "0.5")
    assert line["accuracy"] == pytest.approx(0.931)
    assert line["std"] == pytest.approx(0.001)
    assert line["n"] == 3
    assert line["delta_points"] == pytest.approx(-1.9)
    assert (line["kept_asked"], line["kept_flops"]) == (0.5, 0.498)
    assert (line["flops"], line["params"], line["bytes"], line["compression"]) == (498_000, 20_000, 64_000, 2.5)
    assert (line["searched"], line["search_seconds"], line["epochs"]) == (9, 41.5, 3)
    assert (line["dense_accuracy"], line["device"], line["run"]) == (0.95, "cpu", "some-run")
    assert pd.isna(line["latency_ms"])
    assert pd.isna(line["latency_device"])
    assert pd.isna(line["command"])  # its run's folder is not there


def test_ranks_within_each_target(board: Board) -> None:
    ranked = {(line["method"], line["target"]): line["rank"] for line in table_records(board.frame)}
    assert {who: rank for who, rank in ranked.items() if not pd.isna(rank)} == {
        ("kse", "0.5"): 1, ("l1", "0.5"): 2, ("fpgm", "0.5"): 2, ("l1", "0.3"): 1}  # fmt: skip
    assert list(board.frame["target"]) == ["0.5"] * 4 + ["0.3"] * 2


def test_what_a_reader_must_know_is_noted(board: Board) -> None:
    assert row(board, "taylor", "0.5")["note"] == ONE_SEED
    note = str(row(board, "l1", "0.3")["note"])
    assert "1 of 3 seeds failed: the loss is not finite" in note
    assert "below the target" in note
    refused = row(board, "kse", "0.3")
    assert refused["note"] == "target '0.3' is out of reach"
    assert pd.isna(refused["accuracy"])
    assert pd.isna(refused["searched"])
    assert pd.isna(row(board, "kse", "0.5")["note"])


def test_seeds_that_come_later_join_their_row(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        ledger.add(final("taylor", 0.5, seed=1), judged(0.997, 0.5))
    line = row(read_boards(path, [TASK], tmp_path)[0], "taylor", "0.5")
    assert line["accuracy"] == pytest.approx(0.998)
    assert (line["n"], line["rank"]) == (2, 1)


def test_a_candidate_that_two_strategies_chose_has_a_row_for_each(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        add_row(ledger, "kse", "0.5", (), strategy="lagrangian", searched=60)
    found = read_boards(path, [TASK], tmp_path)[0].frame
    both = found[(found["method"] == "kse") & (found["target"] == "0.5")]
    assert set(both["strategy"]) == {"acra-uniform", "lagrangian"}
    assert both["accuracy"].nunique() == 1
    assert set(both["searched"]) == {9, 60}


def test_a_reason_goes_once_there_is_an_answer(path: str) -> None:
    with filled(path) as ledger:
        assert any(standing.reason for standing in read_standings(ledger))
        add_row(ledger, "kse", "0.3", (0.9, 0.91))
        assert not any(standing.reason for standing in read_standings(ledger))


def test_the_dense_network_keeps_what_was_measured_once(path: str) -> None:
    with filled(path) as ledger:
        store_dense(ledger, Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, None))
        assert read_dense(ledger) == Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, DENSE.test_accuracy)


def test_search_cost_counts_what_the_row_alone_took() -> None:
    def proposal(number: int, strategy: str, target: str | None, stage: str = "search") -> Proposal:
        return Proposal(final("l1", number / 100, judge="search"), stage, strategy, target and parse_target(target))  # type: ignore[arg-type]

    asked = [proposal(1, "a", None, "scan"), proposal(2, "a", "0.5"), proposal(2, "a", "0.5"), proposal(3, "a", "0.3"),
             proposal(4, "b", "0.5")]  # fmt: skip
    seen = [(each, failed_outcome("x", seconds=2.0)) for each in asked]
    finals = [Proposal(final("l1", 0.02, seed), "final", "a", parse_target("0.5")) for seed in range(3)]
    (standing,) = finalist_standings(seen, finals, {"0.5": {"flops": 500_000}}, task=TASK, run="r")
    assert (standing.searched, standing.search_seconds) == (2, 4.0)
    assert standing.final == seedless_key(final("l1", 0.02), TASK)


def test_latency_comes_from_an_export_of_the_same_finalist(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        key = final("kse", 0.5).key(ledger.task)
    costs = {"flops": 1, "params": 1, "bytes": 1}
    timed = {"engine": "torch", "device": "cpu (a chip)", "threads": 2, "batch": 1, "rounds": 9, "dense_ms": 4.0,
             "dense_spread_ms": 0.1, "compressed_ms": 2.5, "compressed_spread_ms": 0.1, "speed_up": 1.6,
             "theoretical": 2.0, "far_below": False}  # fmt: skip
    metrics = {"test_accuracy": 0.9, "test_images": 9, "dense_test_accuracy": 0.9, "seed": 0, "seeds": [0],
               "mean": 0.9, "std": None, "n": 1, "executed_flops": 1,
               "latency": [{**timed, "batch": 64, "compressed_ms": 99.0}, timed]}  # fmt: skip
    config = {"version": 1, "task": {"network": "resnet56"}, "fingerprint": TASK, "method": "kse", "options": {},
              "allocation": {}, "cost": costs,
              "inputs": {"shape": [3, 8, 8], "classes": 10, "mean": [0.5] * 3, "std": [0.5] * 3},
              "dense": costs, "metrics": metrics, "recipe": {}, "seen": False, "files": {},
              "origin": {"run": "r", "candidate": key, "pick": "best", "strategy": "a", "target": "0.5",
                         "searched": 1}}  # fmt: skip
    folder = tmp_path / "some-run" / "export"
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config))
    read_config(folder)  # a whole one
    board = read_boards(path, [TASK], tmp_path)[0]
    line = row(board, "kse", "0.5")
    assert (line["latency_ms"], line["dense_latency_ms"]) == (2.5, 4.0)
    assert "cpu (a chip)" in str(line["latency_device"])
    assert board.frame["latency_ms"].notna().sum() == 1


def test_latency_comes_from_a_search_for_a_target_of_latency(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        key = final("kse", 0.5).key(ledger.task)
    timed = {"engine": "torch", "device": "cpu (a chip)", "threads": 1, "batch": 8, "rounds": 9, "statistic": "least",
             "dense_ms": 4.0, "dense_spread_ms": 0.1, "compressed_ms": 2.5, "compressed_spread_ms": 0.1,
             "speed_up": 1.6, "theoretical": 2.0, "far_below": False, "predicted_ms": 2.0,
             "predicted_dense_ms": 4.0}  # fmt: skip
    (tmp_path / "some-run").mkdir()
    (tmp_path / "some-run" / FILE).write_text(json.dumps({key: timed, "another": timed}))
    line = row(read_boards(path, [TASK], tmp_path)[0], "kse", "0.5")
    assert (line["latency_ms"], line["dense_latency_ms"]) == (2.5, 4.0)
    assert line["latency_device"] == "cpu (a chip), torch, 1 thread, batch 8, least of 9 rounds"
    assert "prediction of its latency is -20% off" in str(line["note"])


# ---- filters, order, tasks


def test_filters_keep_the_ranks_among_all(board: Board) -> None:
    (shown,) = select_rows([board], Filter(methods=["l1"], targets=["2x"]))
    assert list(shown.frame["method"]) == ["l1"]
    assert list(shown.frame["rank"]) == [2]
    assert set(select_rows([board], Filter(strategies=["lagrangian"]))[0].frame["method"]) == {"fpgm"}
    assert set(select_rows([board], Filter(targets=["0.3M"]))[0].frame["target"]) == {"0.3"}


@pytest.mark.parametrize("column", ["accuracy", "-accuracy", "kept_flops"])
def test_sorting_puts_blanks_last(board: Board, column: str) -> None:
    values = sort_rows(board.frame, column)[column.removeprefix("-")].tolist()
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


def test_a_task_without_finalists_says_so(path: str, tmp_path: Path) -> None:
    with Ledger(path, TASK, "t") as ledger:
        store_dense(ledger, DENSE)
    with pytest.raises(UserError, match="has no finalist of t on the test set"):
        read_boards(path, list(list_tasks(path)), tmp_path)
