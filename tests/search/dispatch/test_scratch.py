"""Temporary folders of processes that are dead: which are removed, and which stay."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from search.dispatch.scratch import remove_abandoned


def test_folders_that_are_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / "rs-other-1").mkdir()  # of a program that knows nothing of the lock
    (tmp_path / "rs-dead-1").mkdir()
    (tmp_path / "rs-dead-1" / "lock").touch()
    (tmp_path / "rs-link-1").symlink_to(tmp_path / "rs-other-1")
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rs-link-1", "rs-other-1"]


def test_what_could_not_be_removed_is_found_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of Ray that has outlived its driver writes into the folder while it is removed."""
    folder = tmp_path / "rs-ray-abcd1234"
    (folder / "r").mkdir(parents=True)
    (folder / "lock").touch()
    rmtree = shutil.rmtree

    def written_meanwhile(path: Path, ignore_errors: bool) -> None:
        rmtree(path, ignore_errors=ignore_errors)
        (folder / "r").mkdir(parents=True, exist_ok=True)
        (folder / "r" / "late.log").touch()

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", written_meanwhile)
        remove_abandoned(tmp_path)
    assert (folder / "r" / "late.log").exists()
    remove_abandoned(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "inside", "age", "goes"),
    [
        ("rs-ray-abcd1234", "r", 3600, True),
        ("rs-tune-abcd1234", None, 3600, True),
        ("rs-ray-abcd1234", "r", 0, False),  # its process may be about to lock it
        ("rs-ray-abcd1234", "thesis", 3600, False),
        ("rs-other-abcd1234", "r", 3600, False),
    ],
)
def test_folders_that_an_earlier_version_half_removed_go(
    name: str, inside: str | None, age: float, goes: bool, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir(mode=0o700)
    if inside is not None:
        (folder / inside).mkdir()
    os.utime(folder, (time.time() - age, time.time() - age))
    remove_abandoned(tmp_path)
    assert folder.exists() != goes
