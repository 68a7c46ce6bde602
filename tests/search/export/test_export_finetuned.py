"""Exports that fine-tune first: they end where an uninterrupted one would have, whatever stops them."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from export_samples import ROOT
from rich.console import Console

from models.task_config import TaskConfig
from models.tasks.load import load_task
from models.tasks.pictures import measure_accuracy
from search import api
from search.export.compressed import load_compressed
from search.export.export import export_run
from search.export.finished_run import read_run
from search.export.pick import pick_candidate
from search.judge.checkpoint import Checkpoint
from search.judge.evaluate import Evaluator

pytestmark = pytest.mark.usefixtures("quick")


def test_a_candidate_without_weights_is_fine_tuned_first(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "weights")
    steps = []
    made = export_run(read_run(copy), formats=("config",), on_step=lambda done, total: steps.append((done, total)))
    assert [done for done, _ in steps] == list(range(1, steps[0][1] + 1))
    before = pick_candidate(read_run(run), "best")
    assert made.config.metrics.test_score == pytest.approx(before.tested[0])  # the same seed, the same outcome
    assert (copy / "weights" / f"{before.key}.safetensors").is_file()
    assert list((copy / "checkpoints").iterdir()) == []


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("method", ["l1", "resrep", "kernel-clustering"])
def test_an_interrupted_fine_tune_ends_where_it_would_have(run, tmp_path, method):
    record = read_run(run)
    task = record.config.task
    evaluator = Evaluator(task, device="cpu")
    candidate = pick_candidate(record, "best", 3).candidate
    compressor = evaluator.compressor(candidate.model_copy(update={"method": method}))
    half = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    candidate = candidate.model_copy(update={"method": method, "allocation": half})
    through = evaluator(candidate)

    checkpoint, seen = Checkpoint(tmp_path / "c.safetensors"), []

    def stop(done: int, steps: int) -> None:
        if done == 2 * steps // 3 + 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluator(candidate, checkpoint=checkpoint, on_step=stop)
    resumed = evaluator(candidate, checkpoint=checkpoint, on_step=lambda done, steps: seen.append(done / steps))
    assert seen[0] > 2 / 3  # two of three epochs were not done again
    assert (resumed.loss, resumed.score) == (through.loss, through.score)


@pytest.mark.kill
@pytest.mark.slow
def test_a_killed_export_goes_on_from_its_last_epoch(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    command = [sys.executable, str(ROOT / "run_search.py"), "export", str(copy), "--finetune", "12", "--json"]
    command += ["--format", "config,safetensors"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not list(copy.glob("checkpoints/*.safetensors")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (copy / "export").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert again.returncode == 0, again.stderr
    assert "going on from the last epoch" in again.stderr
    shown = json.loads(again.stdout)  # one object and nothing else
    assert shown["recipe"]["epochs"] == 12
    network = load_compressed(copy / "export")
    assert (
        shown["metrics"]["test_accuracy"]
        == measure_accuracy(network, load_task(TaskConfig(network="small"), "cpu").test)[0]
    )
    assert list((copy / "checkpoints").iterdir()) == []


def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.export.export.export_run", interrupted)
    console = Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        api.export(run, formats="config", finetune=3.0, show=console)
    assert "the same command goes on" in console.file.getvalue()
