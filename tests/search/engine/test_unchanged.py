"""A run goes on with the task that it was begun with, or says what is not as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import save_weights

from models.errors import UserError
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from search import api
from search.engine.observer import RunObserver
from search.engine.outcomes import RunOutcomes
from search.engine.prepare import PreparedRun, prepare_run
from search.engine.run_folder import resumed_config
from search.engine.running import run_prepared
from search.judge.evaluate import load_evaluator
from search.recipe import Recipe
from search.settings.config import RunConfig

NETWORK = """
from torch import nn
def build(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, classes))
"""


def write_weights(path: Path, seed: int) -> str:
    """Other weights for every seed; the file's SHA-256."""
    torch.manual_seed(seed)
    save_weights(build_network("small", classes=10, channels=1), path, {})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_data(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])


def config_of(folder: Path, task: TaskConfig) -> RunConfig:
    return RunConfig(
        task=task.with_absolute_paths(), name="run", results=str(folder), ledger=str(folder / "ledger.db"),
        targets=("0.5",), strategies=("acra-uniform",), recipe=Recipe(epochs=0), workers=0, finalists=0, device="cpu",
    )  # fmt: skip


def search(config: RunConfig) -> RunOutcomes:
    return run_prepared(prepare_run(config))


def weights_task(folder: Path) -> TaskConfig:
    write_weights(folder / "w.safetensors", 0)
    return TaskConfig(network="small", weights=str(folder / "w.safetensors"), train_images=200)


def network_task(folder: Path) -> TaskConfig:
    (folder / "net.py").write_text(NETWORK)
    return TaskConfig(network=f"{folder / 'net.py'}:build", train_images=200)


def data_task(folder: Path) -> TaskConfig:
    write_data(folder / "d.npz", 0)
    return TaskConfig(network="small", data=f"npz:{folder / 'd.npz'}")


@pytest.mark.parametrize(
    ("make", "change", "name"),
    [
        (weights_task, lambda folder: write_weights(folder / "w.safetensors", 1), "weights .*w.safetensors"),
        (network_task, lambda folder: (folder / "net.py").write_text(NETWORK + "\n# edited"), "network .*net.py:build"),
        (data_task, lambda folder: write_data(folder / "d.npz", 1), "data npz:.*d.npz"),
    ],
)
def test_what_changed_is_named_and_nothing_is_judged(
    tmp_path: Path, make: Callable[[Path], TaskConfig], change: Callable[[Path], object], name: str
) -> None:
    config = config_of(tmp_path, make(tmp_path))
    search(config)
    before = (tmp_path / "ledger.db").read_bytes(), (tmp_path / "run" / "run.json").read_bytes()
    search(resumed_config(tmp_path / "run"))
    change(tmp_path)
    with pytest.raises(UserError, match=rf"^{name} ha(s|ve) changed \(.* then, .* now\) since the run in .*name$"):
        prepare_run(resumed_config(tmp_path / "run"))
    with pytest.raises(UserError, match=name):  # the same search given in full again
        prepare_run(config)
    after = (tmp_path / "run" / "run.json").read_text()
    assert (tmp_path / "ledger.db").read_bytes() == before[0]
    assert json.loads(after)["fingerprint"] == json.loads(before[1])["fingerprint"]
    assert search(config.model_copy(update={"name": "anew"})).complete


def test_both_digests_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, weights_task(tmp_path))
    then = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    api.run_config(config, show=False)
    now = write_weights(tmp_path / "w.safetensors", 1)
    with pytest.raises(UserError) as caught:
        api.search(resume=tmp_path / "run", show=False)
    assert f"({then[:12]} then, {now[:12]} now)" in str(caught.value)
    with pytest.raises(UserError, match=f"{then[:12]} then, {now[:12]} now"):
        api.export(tmp_path / "run", pick="knee", show=False)


def test_a_run_of_an_earlier_version_knows_the_whole_alone(tmp_path: Path) -> None:
    config, path = config_of(tmp_path, weights_task(tmp_path)), tmp_path / "run" / "run.json"
    search(config)
    record = json.loads(path.read_text())
    del record["task_parts"]
    path.write_text(json.dumps(record))
    search(config)
    path.write_text(json.dumps(record))
    write_weights(tmp_path / "w.safetensors", 1)
    with pytest.raises(UserError, match=rf"have changed \(task {record['fingerprint'][:12]}"):
        prepare_run(config)


def test_a_comparison_is_refused_alike(tmp_path: Path) -> None:
    config = config_of(tmp_path, weights_task(tmp_path)).model_copy(update={"comparison": True})
    search(config)
    prepare_run(resumed_config(tmp_path / "run"))
    write_weights(tmp_path / "w.safetensors", 1)
    with pytest.raises(UserError, match=r"weights .* have changed"):
        prepare_run(resumed_config(tmp_path / "run"))


def test_a_worker_with_other_files_judges_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path, weights_task(tmp_path))
    run = prepare_run(config)
    assert load_evaluator(config.task, device="cpu", fingerprint=run.fingerprint).task.fingerprint == run.fingerprint
    write_weights(tmp_path / "w.safetensors", 1)
    with pytest.raises(UserError, match="not those that the search began with"):
        load_evaluator(config.task, device="cpu", fingerprint=run.fingerprint)


@pytest.mark.parametrize("schema", [3, 0, "1", None, True, [1]])
def test_a_later_schema_is_one_sentence(tmp_path: Path, schema: object) -> None:
    config, path = config_of(tmp_path, weights_task(tmp_path)), tmp_path / "run" / "run.json"
    search(config)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"schema": schema}))
    content = path.read_bytes()
    attempts = (lambda: resumed_config(path.parent), lambda: api.open_run(path.parent), lambda: prepare_run(config))
    for attempt in attempts:
        with pytest.raises(UserError, match=r"run.json is of schema .*, and this version reads 1"):
            attempt()
    assert path.read_bytes() == content


@pytest.mark.parametrize("comparison", [False, True])
def test_the_resume_line_is_told_when_it_works(tmp_path: Path, comparison: bool) -> None:
    config = config_of(tmp_path, weights_task(tmp_path)).model_copy(update={"comparison": comparison})
    told: list[tuple[RunConfig, str]] = []

    class Watching(RunObserver):
        def on_recorded(self, run: PreparedRun, resume_command: str) -> None:
            told.append((resumed_config(tmp_path / "run"), resume_command))

    run_prepared(prepare_run(config), Watching())
    ((resumed, command),) = told
    assert resumed == config
    assert command.endswith(f"{'compare' if comparison else 'search'} --resume {tmp_path / 'run'}")
