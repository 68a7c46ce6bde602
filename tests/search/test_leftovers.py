"""What killed writers leave is removed by the next one; what a living one writes is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from search.files.atomic import AGE, atomic_write, clear_leftovers, final_name, hold_lock, temporary_name


def aged(path: Path) -> Path:
    os.utime(path, (time.time() - 2 * AGE,) * 2)
    return path


def test_old_ones_of_the_same_name_go(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    file, folder = tmp_path / ".model.onnx.12-ab.tmp", tmp_path / ".model.onnx.x7.tmp"
    file.write_text("half")
    folder.mkdir()
    (folder / "part").write_text("half")
    others = [tmp_path / name for name in (".model.onnx.12.txt", ".other.12-ab.tmp", "model.onnx.12.tmp")]
    for each in (file, folder, *others):
        if each not in (file, folder):
            each.write_text("kept")
        aged(each)
    atomic_write(target, "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", *(path.name for path in others)}


def test_young_and_held_ones_stay(tmp_path: Path) -> None:
    young, busy = tmp_path / ".export.1.tmp", tmp_path / ".export.2.tmp"
    young.mkdir()
    busy.mkdir()
    aged(busy)
    with hold_lock(busy):
        clear_leftovers(tmp_path / "export")
        assert young.is_dir()
        assert busy.is_dir()
    clear_leftovers(tmp_path / "export")
    assert young.is_dir()
    assert not busy.exists()


def test_of_a_name_that_is_shortened(tmp_path: Path) -> None:
    target = tmp_path / f"{'a' * 240}.json"
    left = tmp_path / temporary_name(target.name)
    left.write_text("half")
    aged(left)
    atomic_write(target, "whole")
    assert not left.exists()
    assert final_name(f"runs/{temporary_name('w.json')}/x") == "runs/w.json/x"
