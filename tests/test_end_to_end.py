"""A real search on real digits from the command line to its files; and one whose driver is killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_cli import TINY, one_object, run
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import run_search
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from models.tasks.load import load_task
from search.export.compressed import load_compressed
from search.ledger.ledger import Ledger, list_tasks

SCRIPT = Path(run_search.__file__).resolve()
SEARCH = ["search", *TINY, "--target-flops", "0.7,0.4", "--final-epochs", "0.2", "--final-seeds", "2", "--name", "tiny"]
FILES = ["run.json", "candidates.csv", "pareto.csv", "finalists.csv", "report.html", "pareto.png", "leaderboard.html",
         "leaderboard.csv"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one search has run: the embedded baseline is trained, then compressed."""
    folder = tmp_path_factory.mktemp("search")
    done = command(folder, *SEARCH, "--json")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=folder, env=environment
    )


def records(database: Path) -> list[tuple[str, dict[str, Any]]]:
    """(key, record) of every trial in the SQLite file, read without our own code."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute("select value_json from trial_user_attributes where key = 'record' order by trial_id")
        found = [json.loads(json.loads(value)) for (value,) in rows]
    finally:
        connection.close()
    return [(record["key"], record) for record in found]


def test_prints_one_object(finished: Path) -> None:
    found = one_object((finished / "stdout").read_text())
    assert found["complete"] is True
    assert found["run"] == "results/tiny"
    assert {Path(str(path)).name for path in found["files"]} <= set(FILES)  # type: ignore[attr-defined]
    assert found["front"]
    assert found["finalists"]


def test_leaves_its_files_and_no_others(finished: Path) -> None:
    folder = finished / "results" / "tiny"
    assert {path.name for path in folder.iterdir()} == {*FILES, "weights"}
    assert all((folder / name).stat().st_size > 0 for name in FILES)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert {path.name for path in (finished / "results").iterdir()} == {"tiny", "baselines", "ledger.db"}


def test_the_front_is_dominated_by_nothing(finished: Path) -> None:
    """And whatever is dominated by nothing is on it, but for twins."""
    folder = finished / "results" / "tiny"
    table, front = pd.read_csv(folder / "candidates.csv"), pd.read_csv(folder / "pareto.csv")
    judged = [(row.flops, row.accuracy) for row in table.itertuples() if row.stage == "search" and row.status == "ok"]
    assert len(judged) == 4

    def dominated(flops: int, accuracy: float) -> bool:
        return any(f <= flops and a >= accuracy and (f, a) != (flops, accuracy) for f, a in judged)

    expected = {point for point in judged if not dominated(*point)}
    assert {(row.flops, row.accuracy) for row in front.itertuples()} == expected
    assert len(front) == len(expected)


def test_figures_fit_together(finished: Path) -> None:
    folder = finished / "results" / "tiny"
    table, finals = pd.read_csv(folder / "candidates.csv"), pd.read_csv(folder / "finalists.csv")
    images = max(record["outcome"]["images"] for _, record in records(finished / "results" / "ledger.db")
                 if record["meta"]["stage"] == "search")  # fmt: skip
    for row in table.itertuples():
        assert float(row.target) - 0.005 <= row.kept_flops <= float(row.target)
    searched, tested = table[table.stage == "search"], table[table.stage == "final"]
    assert searched.test_accuracy.isna().all()
    assert tested.accuracy.isna().all()
    assert sorted(tested.target.astype(str)) == ["0.4", "0.4", "0.7", "0.7"]
    assert set(tested.seed) == {0, 1}
    for final in finals.itertuples():
        own = tested[tested.target == final.target].test_accuracy
        assert final.test_accuracy == pytest.approx(own.mean())
        assert final.test_std == pytest.approx(own.std(ddof=1))
        rivals = searched[searched.target == final.target]
        best = rivals.accuracy.max()
        near = rivals[rivals.accuracy >= best - (best * (1 - best) / images) ** 0.5 - 1e-9]
        assert final.strategy in set(near[near.drift == near.drift.min()].strategy)


def test_every_key_is_in_the_ledger_once(finished: Path) -> None:
    found = records(finished / "results" / "ledger.db")
    counts = Counter(key for key, _ in found)
    assert set(counts.values()) == {1}
    table = pd.read_csv(finished / "results" / "tiny" / "candidates.csv")
    assert set(table.key) <= set(counts)
    stages = Counter(record["meta"]["stage"] for _, record in found)
    assert stages["final"] == 4
    assert 2 <= stages["search"] <= 4
    assert stages["scan"] == len(counts) - stages["final"] - stages["search"] > 5


def test_resuming_what_is_finished_pays_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    before = records(finished / "results" / "ledger.db")
    tables = {name: pd.read_csv(finished / "results" / "tiny" / name) for name in ("candidates.csv", "pareto.csv")}
    code, out, err = run(capsys, "search", "--resume", "results/tiny", "--json")
    assert code == 0, err
    assert one_object(out)["complete"] is True
    assert records(finished / "results" / "ledger.db") == before
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(finished / "results" / "tiny" / name), table)


def test_another_search_of_the_same_task_starts_from_what_is_known(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    before = {key for key, _ in records(finished / "results" / "ledger.db")}
    changed = [*SEARCH[:-1], "again", "--finalists", "0", "--target-flops", "0.7,0.4,0.55"]
    code, _, err = run(capsys, *changed, "--json")
    assert code == 0, err
    new = [record for key, record in records(finished / "results" / "ledger.db") if key not in before]
    assert {record["meta"]["target"] for record in new} == {"0.55"}


def test_the_report_needs_no_network(finished: Path) -> None:
    text = (finished / "results" / "tiny" / "report.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", text)


@pytest.mark.slow
def test_a_search_for_latency_ends_with_a_measurement(finished: Path) -> None:
    """A batch of 64, as calls take most of the time that this small network needs for one image."""
    wanted = ["--target-latency", "0.7", "--latency-batch", "64", "--strategy", "acra-uniform", "--name", "quick"]
    arguments = ["search", *TINY, "--final-epochs", "0.2", "--final-seeds", "1", *wanted]
    done = command(finished, *arguments)
    assert done.returncode == 0, done.stderr
    folder = finished / "results" / "quick"
    (line,) = pd.read_csv(folder / "finalists.csv").to_dict("records")
    assert line["latency_ms"] > 0
    assert line["dense_latency_ms"] > 0
    assert "batch 64" in line["latency_device"]
    assert f"measured {line['latency_ms']:.3g} ms whole" in done.stdout
    assert f"measured {line['latency_ms']:.3g} ms whole" in (folder / "report.html").read_text()
    board = json.loads(command(finished, "leaderboard", "--format", "json").stdout)
    (row,) = [row for task in board["tasks"] for row in task["rows"] if row["target"] == "latency 0.7"]
    assert row["latency_ms"] == line["latency_ms"]
    before = (folder / "latency.json").read_text()
    again = command(finished, "search", "--resume", "results/quick")
    assert again.returncode == 0, again.stderr
    assert (folder / "latency.json").read_text() == before  # what was measured is not measured again


@pytest.mark.slow
def test_two_targets_together_are_both_met(finished: Path) -> None:
    arguments = ["search", *TINY, "--target-flops", "0.5", "--target-params", "0.4", "--strategy", "acra-uniform"]
    done = command(finished, *arguments, "--final-epochs", "0.2", "--final-seeds", "1", "--name", "both")
    assert done.returncode == 0, done.stderr
    made = command(finished, "export", "results/both", "--format", "config,safetensors", "--to", "small")
    assert made.returncode == 0, made.stderr
    dense, small = build_network("small", classes=10, channels=1), load_compressed(finished / "small")
    flops, params = (
        [count(network) for network in (small, dense)]
        for count in (counted_flops, lambda network: sum(p.numel() for p in network.parameters()))
    )
    assert flops[0] <= 0.5 * flops[1]
    assert params[0] <= 0.4 * params[1]
    assert max(flops[0] / flops[1] / 0.5, params[0] / params[1] / 0.4) > 0.95  # and one of them binds


def counted_flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


def wait_for(database: Path, count: int, process: subprocess.Popen[str], seconds: float) -> None:
    """Until the ledger holds so many outcomes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the search ended before it could be killed"
        try:
            if len(records(database)) >= count:
                return
        except sqlite3.OperationalError:
            pass  # not there yet
        time.sleep(0.05)
    raise AssertionError("the search made no progress")


@pytest.mark.ray
@pytest.mark.kill
@pytest.mark.slow
def test_a_killed_driver_loses_and_repeats_nothing(tmp_path: Path) -> None:
    options = ["--train-images", "300", "--epochs", "0.5", "--scan-levels", "2", "--device", "cpu", "--workers", "2"]
    options += ["--target-flops", "0.7,0.4", "--final-seeds", "2", "--final-epochs", "0.5"]
    arguments = ["search", "--network", "small", *options, "--name", "killed-run", "--results", "a folder"]
    database, log = tmp_path / "a folder" / "ledger.db", tmp_path / "stdout"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments], cwd=tmp_path, env=environment, stdout=out,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(database, 4, process, 120)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
    before = records(database)
    status = json.loads((tmp_path / "a folder" / "killed-run" / "run.json").read_text())["status"]
    assert status == "running"

    # Twice: when the search began, and by the process that outlives it.
    (printed,) = set(re.findall(r"python run_search\.py (search --resume .*)", log.read_text()))
    done = command(tmp_path, *shlex.split(printed), "--json")
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["complete"] is True

    after = records(database)
    assert after[: len(before)] == before
    assert set(Counter(key for key, _ in after).values()) == {1}
    stages = Counter(record["meta"]["stage"] for _, record in after)
    assert stages["final"] == 4
    assert len(before) < len(after)
    assert all(record["outcome"]["status"] == "ok" for _, record in after)
    fingerprint = load_task(TaskConfig(network="small", data="digits", train_images=300), "cpu").fingerprint
    assert list(list_tasks(str(database))) == [fingerprint]
    with Ledger(str(database), fingerprint, "small on digits") as ledger:
        assert {record.key for record in ledger.records()} == {key for key, _ in after}
    table = pd.read_csv(tmp_path / "a folder" / "killed-run" / "candidates.csv")
    assert set(table.key) == {key for key, record in after if record["meta"]["stage"] != "scan"}
