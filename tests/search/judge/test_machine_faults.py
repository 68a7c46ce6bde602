"""A fault of the machine is no candidate's: it is told from one, enters no ledger, and the search goes on after it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from models.data.pictures import decode_picture
from models.errors import UserError
from models.task_config import TaskConfig
from search import api
from search.candidate import failed_outcome
from search.judge.evaluate import Evaluator
from search.judge.faults import MachineFaultError, is_machine_fault, machine_fault
from search.judge.finetune import DivergedError
from search.ledger.ledger import Ledger
from search.recipe import Recipe
from search.settings.config import RunConfig


def raised(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped() -> None:
    try:
        raise OSError(
            errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/results/run/weights/.ab12.safetensors.77-0af3.tmp"
        )
    except OSError as error:
        raise RuntimeError("could not keep the weights") from error


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (
            lambda: Path("/nowhere/data.npz").read_bytes(),
            "^/nowhere/data.npz: No such file or directory; bring it back$",
        ),
        (lambda: Path("/proc/x").write_bytes(b""), "^/proc/x: "),
        (lambda: safetensors.safe_open("/nowhere/w.safetensors", "pt"), "No such file"),
        (
            lambda: decode_picture("/nowhere/dog.png", 1.0),
            "^image /nowhere/dog.png cannot be read: No such file or directory; put a readable picture in its place$",
        ),
        (wrapped, "^/data/results/run/weights/ab12.safetensors: Disk quota exceeded; free space$"),
    ],
)
def test_what_the_machine_lacks_is_told(action: Callable[[], object], words: str) -> None:
    fault = machine_fault(raised(action))
    assert fault is not None
    with pytest.raises(MachineFaultError, match=words):
        raise MachineFaultError(fault)
    assert ".tmp" not in fault


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV])
def test_of_whatever_number(number: int) -> None:
    for error in (OSError(number, os.strerror(number)), RuntimeError(f"cannot open: {os.strerror(number)}"),
                  RuntimeError(f"unable to open file </x/y.bin>: {os.strerror(number)} ({number})"),
                  OSError(f"open /x failed: {os.strerror(number)}"),
                  RuntimeError(f"I/O error (os error {number})")):  # fmt: skip
        assert machine_fault(error) is not None


@pytest.mark.parametrize(
    "error",
    [DivergedError("its loss is nan"), torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), ValueError("no"),
     OSError("the shapes of the two branches differ"), OSError(), FileNotFoundError("no such layer: conv9"),
     RuntimeError("CUDA error: Operation not permitted"),
     RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be reported"),
     RuntimeError("NCCL failure: Permission denied"), RuntimeError("CUDA driver error: No such device"),
     ValueError("my layer says No such file or directory because its table is empty"),
     KeyError("Permission denied by me"),
     OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), RuntimeError("mat1 and mat2 shapes cannot be multiplied")],
)  # fmt: skip
def test_what_a_candidate_may_be_to_blame_for_is_none(error: Exception) -> None:
    assert machine_fault(error) is None
    assert not is_machine_fault(failed_outcome(str(error)))


def test_a_search_stops_at_a_damaged_picture_and_goes_on_when_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.data.picture_folders.MOST_DECODED", 0)  # as in a folder of very many pictures
    for index in range(24):
        place = tmp_path / "pictures" / ("val" if index % 3 == 0 else "train") / "ab"[index % 2] / f"{index}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 90).convert("RGB").save(place)
    good = place.read_bytes()  # one that is trained on
    place.write_bytes(good[:200] + b"\xff" * (len(good) - 202) + good[-2:])
    task = TaskConfig(network="resnet20", data=f"imagefolder:{tmp_path / 'pictures'}@16").with_absolute_paths()
    config = RunConfig(
        task=task, name="run", results=str(tmp_path), ledger=str(tmp_path / "ledger.db"), targets=("0.5",),
        strategies=("acra-uniform",), recipe=Recipe(epochs=1), workers=0, device="cpu", finalists=0,
    )  # fmt: skip
    with pytest.raises(UserError, match=rf"not of a candidate: image {place} cannot be read: .*; put a readable "
                                        r"picture in its place, then go on with: .* --resume .*/run$"):  # fmt: skip
        api.run_config(config, show=False)
    place.write_bytes(good)
    assert list(api.search(resume=tmp_path / "run", show=False).table["status"]) == ["ok"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that takes a run's small files and no weights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs the superuser")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("save", [safetensors.torch.save_file, torch.save])
def test_a_full_disk_as_libraries_tell_it(small_disk: Path, save: Callable[[object, Path], object]) -> None:
    fault = machine_fault(raised(lambda: save({"x": torch.zeros(99999)}, small_disk / "x")))
    assert str(fault).endswith("; free space")


@pytest.mark.kill
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_search_goes_on_after_a_full_disk(tmp_path: Path, small_disk: Path, workers: int) -> None:
    task = TaskConfig(network="small", train_images=200).with_absolute_paths()
    config = RunConfig(
        task=task, name="run", results=str(small_disk), ledger=str(tmp_path / "ledger.db"), targets=("0.5",),
        strategies=("acra-uniform",), recipe=Recipe(epochs=0.1), workers=workers, device="cpu", final_seeds=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"not of a candidate: .*weights/.*No space left on device; free space, then go "
                                        r"on with: .* --resume .*/disk/run$"):  # fmt: skip
        api.run_config(config, show=False)
    with Ledger(config.ledger, Evaluator(task, device="cpu").task.fingerprint, "t") as ledger:
        searched = [record.outcome.status for record in ledger.records()]
    assert set(searched) == {"ok"}
    # Somebody frees space: report and leaderboard take some 5 MB each.
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    found = api.search(resume=small_disk / "run", show=False)
    assert found.complete
    assert list(found.table["status"].unique()) == ["ok"]
    assert len(found.finalists) == 1
