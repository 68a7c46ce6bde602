"""Runs in folders that cannot be written to: refused before anything is loaded, with advice that fits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import read_only

from models.errors import UserError
from models.task_config import TaskConfig
from search import api
from search.engine.prepare import prepare_run
from search.judge import evaluate
from search.recipe import Recipe
from search.settings.config import RunConfig


def config_of(folder: Path) -> RunConfig:
    return RunConfig(
        task=TaskConfig(network="small", train_images=200).with_absolute_paths(), name="run",
        results=str(folder / "results"), ledger=str(folder / "ledger.db"),
        targets=("0.5",), strategies=("acra-uniform",), recipe=Recipe(epochs=0.1),
        workers=0, finalists=0, device="cpu",
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    api.run_config(config_of(tmp_path), show=False)
    return tmp_path / "results" / "run"


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def load(*_: object) -> None:
        raise AssertionError("the task was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "load_task", load)
        yield


def test_an_export_that_must_fine_tune_is_refused_before_it(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    with read_only(run), pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load_task", lambda *_: pytest.fail("the task was loaded"))
        for attempt in (
            lambda: api.export(run, pick="knee", finetune=1, to=tmp_path / "to", show=False),
            lambda: api.open_run(run).network("knee"),
        ):
            with pytest.raises(
                UserError, match=r"run/weights' cannot be written \(Read-only .*make it writable, or copy"
            ):
                attempt()
    assert not (tmp_path / "to").exists()
    made = api.export(
        tmp_path / "copy", pick="knee", finetune=0.1, to=tmp_path / "to", formats="config", show=False
    )  # as the sentence says
    assert made.folder == tmp_path / "to"


def test_an_export_of_weights_that_are_there_needs_no_place_in_the_run(run: Path, tmp_path: Path) -> None:
    api.export(run, pick="knee", to=tmp_path / "first", formats="config", show=False)
    with read_only(run):
        api.export(run, pick="knee", to=tmp_path / "second", formats="config", show=False)
    assert (tmp_path / "second" / "config.json").is_file()


def test_a_resumption_is_refused_with_advice_that_it_can_follow(
    run: Path, tmp_path: Path, nothing_loaded: None
) -> None:
    with (
        read_only(run),
        pytest.raises(UserError, match=r"results/run' cannot be written \(.*resume the copy") as refusal,
    ):
        api.search(resume=run, show=False)
    assert "another folder with" not in str(refusal.value)


def test_a_comparison_is_refused_alike(run: Path, tmp_path: Path, nothing_loaded: None) -> None:
    with read_only(run), pytest.raises(UserError, match="resume the copy"):
        prepare_run(config_of(tmp_path).model_copy(update={"comparison": True}))


def test_a_new_run_where_nothing_can_be_made(tmp_path: Path, nothing_loaded: None) -> None:
    place = tmp_path / "results"
    place.mkdir()
    with (
        read_only(place),
        pytest.raises(UserError, match=r"cannot be written .*; choose another folder with results"),
    ):
        api.run_config(config_of(tmp_path), show=False)
