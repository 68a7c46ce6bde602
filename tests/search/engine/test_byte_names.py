"""Folders and files whose names are bytes that are not UTF-8: refused before anything is trained, or they work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome

from models.errors import UserError
from models.task_config import TaskConfig
from search import api
from search.judge import baseline, evaluate
from search.ledger import ledger as ledgers
from search.recipe import Recipe
from search.settings.config import RunConfig


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / os.fsdecode(b"bytes\xff\xfe")
    place.mkdir()
    return place


def nothing_loaded(patch: pytest.MonkeyPatch) -> None:
    for module in (evaluate, baseline):
        patch.setattr(module, "load_task", lambda *_: pytest.fail("the task was loaded"))


def config_of(results: Path) -> RunConfig:
    task = TaskConfig(network="small", train_images=200).with_absolute_paths()
    return RunConfig(task=task, name="run", results=str(results), ledger=str(results / "ledger.db"),
                     targets=("0.5",), strategies=("acra-uniform",), recipe=Recipe(epochs=0.1), workers=0,
                     finalists=0, device="cpu")  # fmt: skip


STARTS: list[Callable[[Path], object]] = [
    lambda place: api.run_config(config_of(place), show=False),
    lambda place: api.search(results=place, show=False),  # whose baseline would be trained first
    lambda place: api.search("small", "digits", results=place, name="run", show=False),
    lambda place: api.compare("small", "digits", results=place, name="run", show=False),
    lambda place: api.train("small", "digits", out=place / "w.safetensors", show=False),
]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("inside", [False, True], ids=["named", "worked in"])
def test_work_there_is_refused_before_it_begins(
    place: Path, start: Callable[[Path], object], inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_loaded(monkeypatch)
    if inside:
        monkeypatch.chdir(place)
    with pytest.raises(UserError, match=r"bytes\\udcff\\udcfe.* is not UTF-8, .*; rename that folder or file"):
        start(Path("results") if inside else place)


def test_an_export_into_such_a_folder_is_refused_before_its_fine_tune(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.run_config(config_of(tmp_path), show=False)
    moved = place / "run"
    nothing_loaded(monkeypatch)
    with pytest.raises(UserError, match="is not UTF-8"):
        api.export(tmp_path / "run", pick="knee", to=place / "to", show=False)
    (tmp_path / "run").rename(moved)
    with pytest.raises(UserError, match="is not UTF-8"):
        api.export(moved, pick="knee", to=tmp_path / "to", show=False)


def test_a_ledger_there_works_and_keeps_what_its_disk_refuses(place: Path) -> None:
    path, rescue = place / "ledger.db", place / "unsaved.jsonl"
    ledger = ledgers.Ledger(str(path), TASK, TITLE, rescue=rescue)
    path.unlink()
    with pytest.raises(ledgers.LedgerError, match="not there any more"):
        ledger.add(candidate(), outcome())
    with pytest.raises(ledgers.LedgerError):
        ledger.close()
    with ledgers.Ledger(str(path), TASK, TITLE, rescue=rescue) as again:
        assert [record.outcome for record in again.records()] == [outcome()]


def test_a_network_in_a_file_there_is_planned(place: Path) -> None:
    (place / "nets.py").write_text(
        "from torch import nn\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(8, classes))\n"
    )
    assert api.plan(f"{place / 'nets.py'}:net", "digits", targets=["0.5"]).record["network"].endswith("nets.py:net")
