"""Kits' folders: whole or not there, and never taken for a kit of something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_samples import chain_method

from models.errors import UserError
from models.task_config import TaskConfig
from search.kit import make_kit as module
from search.kit import measure
from search.kit import write_kit as writer
from search.kit.anchors import write_network
from search.kit.make_kit import make_kit

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[3]
TASK = TaskConfig(network="small", data="digits")


def silent(text: str) -> None:
    pass


@pytest.mark.parametrize("fault", [UserError("not to be written"), KeyboardInterrupt()])
def test_a_kit_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    def fail(*arguments: Any) -> None:
        raise fault

    monkeypatch.setattr(writer, "write_network", fail)
    with pytest.raises(type(fault)):
        make_kit(TASK, {"l1": {}}, str(tmp_path / "phone"), silent)
    assert not list(tmp_path.iterdir())


def test_methods_without_widths_are_told_what_a_kit_takes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="by them; take a method that only removes channels"):
        make_kit(TASK, {"kse": {}}, str(tmp_path / "phone"), silent)
    assert not list(tmp_path.iterdir())


def test_a_kit_is_measured_further_for_the_same_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "my.py"
    code.write_text("def build(): ...\n")
    task = TaskConfig(network=f"{code}:build", data="digits")
    made = module._settings_digest(task, {"l1": {}})
    folder = tmp_path / "phone"
    folder.mkdir()
    record = {"settings": made, "files": {}}
    (folder / "kit.json").write_text(json.dumps(record))
    assert module._read_kit(folder, made, going_on=True) == record
    others = [
        module._settings_digest(task.model_copy(update={"data": "cifar10"}), {"l1": {}}),
        module._settings_digest(task, {"fpgm": {}}),
        module._settings_digest(task, {"l1": {"other": 1}}),
    ]
    code.write_text("def build(): return 1\n")
    others.append(module._settings_digest(task, {"l1": {}}))
    for other in others:
        with pytest.raises(UserError, match="made for another network, other methods or other options"):
            module._read_kit(folder, other, going_on=True)
    (folder / "kit.json").write_text("[]")
    with pytest.raises(UserError, match="is no kit"):
        module._read_kit(folder, made, going_on=True)


def test_whole_networks_are_read_by_the_runtimes_that_the_page_names(tmp_path: Path) -> None:
    """By onnxruntime's table of versions, 1.18 is the first that reads IR version 10 and opset 21."""
    compressor = chain_method()
    write_network(compressor, np.zeros(len(compressor.sites), dtype=np.intp), tmp_path / "0.onnx")
    model = onnx.load(tmp_path / "0.onnx")
    assert model.ir_version <= 10
    assert all(opset.version <= 21 for opset in model.opset_import)
    for text in (str(measure.__doc__), (ROOT / "docs" / "latency.md").read_text(encoding="utf-8")):
        assert "onnxruntime 1.18 or later" in text
