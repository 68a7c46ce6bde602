"""What a search hands to the processes that judge for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from ray import cloudpickle

from models.data import picture_folders
from models.task_config import TaskConfig
from search.engine.prepare import prepare_run
from search.engine.running import evaluator_factory
from search.recipe import Recipe
from search.settings.config import RunConfig


def test_a_worker_does_not_check_again_what_the_search_has_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(24):
        place = tmp_path / "pictures" / ("val" if index % 3 == 0 else "train") / "ab"[index % 2] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 90).convert("RGB").save(place)
    monkeypatch.chdir(tmp_path)
    config = RunConfig(
        task=TaskConfig(network="resnet20", data="imagefolder:pictures@16"), name="run", results=str(tmp_path),
        ledger=str(tmp_path / "ledger.db"), targets=("0.5",), strategies=("acra-uniform",), recipe=Recipe(epochs=1),
        workers=1, device="cpu", finalists=0,
    )  # fmt: skip
    run = prepare_run(config)
    sent = cloudpickle.dumps(evaluator_factory(run))
    shutil.copytree("pictures", "others", copy_function=shutil.copy)  # without the files' times
    picture_folders.read_folder(Path("others"))  # now this process knows as much of the first as one that just began
    monkeypatch.setattr(picture_folders, "check_picture", lambda *_, **__: pytest.fail("checked again"))
    assert cloudpickle.loads(sent)().task.fingerprint == run.fingerprint
