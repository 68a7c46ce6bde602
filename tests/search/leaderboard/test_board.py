"""Leaderboards: figures and ranks by hand, notes, and latencies from runs' folders."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from board_fakes import DENSE, TASK, add_row, filled, final, judged

from models.errors import UserError
from search.allocation.targets import parse_target
from search.engine.standings import store_dense, store_standings
from search.export.config import CONFIG, read_config
from search.latency.check import FILE
from search.leaderboard.board import Board, read_boards
from search.leaderboard.board_rows import ONE_SEED
from search.ledger.ledger import Ledger, list_tasks
from search.results.tables import table_records


def row(board: Board, method: str, target: str) -> dict[str, object]:
    found = [line for line in table_records(board.frame) if (line["method"], line["target"]) == (method, target)]
    assert len(found) == 1
    return found[0]


def test_figures_of_a_row(board: Board) -> None:
    line = row(board, "l1", "0.5")
    assert line["score"] == pytest.approx(0.931)
    assert line["std"] == pytest.approx(0.001)
    assert line["n"] == 3
    assert line["delta"] == pytest.approx(-0.019)
    assert (line["kept_asked"], line["kept_flops"]) == (0.5, 0.498)
    assert (line["flops"], line["params"], line["bytes"], line["compression"]) == (498_000, 20_000, 64_000, 2.5)
    assert (line["searched"], line["search_seconds"], line["epochs"]) == (9, 41.5, 3)
    assert (line["dense_score"], line["device"], line["run"]) == (0.95, "cpu", "some-run")
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
    assert pd.isna(refused["score"])
    assert pd.isna(refused["searched"])
    assert pd.isna(row(board, "kse", "0.5")["note"])


def test_seeds_that_come_later_join_their_row(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        ledger.add(final("taylor", 0.5, seed=1), judged(0.997, 0.5))
    line = row(read_boards(path, [TASK], tmp_path)[0], "taylor", "0.5")
    assert line["score"] == pytest.approx(0.998)
    assert (line["n"], line["rank"]) == (2, 1)


def test_a_candidate_that_two_strategies_chose_has_a_row_for_each(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        add_row(ledger, "kse", "0.5", (), strategy="lagrangian", searched=60)
    found = read_boards(path, [TASK], tmp_path)[0].frame
    both = found[(found["method"] == "kse") & (found["target"] == "0.5")]
    assert set(both["strategy"]) == {"acra-uniform", "lagrangian"}
    assert both["score"].nunique() == 1
    assert set(both["searched"]) == {9, 60}


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


def test_a_task_without_finalists_says_so(path: str, tmp_path: Path) -> None:
    with Ledger(path, TASK, "t") as ledger:
        store_dense(ledger, DENSE)
    with pytest.raises(UserError, match="has no finalist of t on the test set"):
        read_boards(path, list(list_tasks(path)), tmp_path)


@pytest.mark.parametrize(("chips", "ranks"), [(("chip", "chip"), [1, 2]), (("chip", "other chip"), [1, 1])])
def test_tables_of_two_devices_are_not_mixed_in_ranks(
    path: str, tmp_path: Path, chips: tuple[str, str], ranks: list[int]
) -> None:
    """Both call their device phone; only where it is the same device do the answers compete."""
    target, predictions = parse_target("latency@phone 0.5"), {}
    with Ledger(path, TASK, "t") as ledger:
        store_dense(ledger, DENSE)
        for method, accuracies, chip in zip(("l1", "fpgm"), ([0.9, 0.91], [0.8, 0.81]), chips, strict=True):
            answer = add_row(ledger, method, "0.5", accuracies)
            limits = {"target": target, "target_flops": None, "target_limits": {"latency@phone": 500}}
            store_standings(ledger, [answer.model_copy(update=limits)])
            latency = {"device": "phone", "where": chip, "predicted_ms": 1.0, "dense_ms": 2.0}
            predictions |= {final(method, 0.5, seed).key(TASK): [latency] for seed in (0, 1)}
    (tmp_path / "some-run").mkdir()
    (tmp_path / "some-run" / "device_latency.json").write_text(json.dumps(predictions))
    frame = read_boards(path, [TASK], tmp_path)[0].frame
    on_phone = frame[frame["target"] == "latency@phone 0.5"]
    assert sorted(on_phone["rank"].tolist()) == ranks
    assert set(on_phone["latency_device"]) == {f"phone ({chip}), predicted" for chip in chips}
    assert on_phone["latency_ms"].tolist() == [1.0, 1.0]
