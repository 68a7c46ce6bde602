"""Files where a user wants them: tried first, never replaced unasked, and what was worked out is never lost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoints.loading import read_metadata
from models.errors import UserError
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from models.tasks.load import load_network, load_task
from models.tasks.loaded import Score
from models.tasks.pictures import PictureTask
from search import api
from search.files.output_file import check_output_file, check_output_folder, write_output_file
from search.judge import baseline

TRAIN = {"network": "small", "epochs": 0.1, "train_images": 200, "device": "cpu", "show": False}


def socket_at(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "link to nothing": (lambda path: path.symlink_to("nowhere.pt"), "link to nothing"),
    "link to itself": (lambda path: path.symlink_to(path.name), "link to nothing|cannot be written"),
    "link to a device": (lambda path: path.symlink_to("/dev/null"), "is a device"),
    "pipe": (os.mkfifo, "is a device"),
    "socket": (socket_at, "is a device"),
    "file": (lambda path: path.write_bytes(b"precious"), "is there already.*force"),
    "link to a file": (lambda path: (path.with_name("f").touch(), path.symlink_to("f")), "is there already"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_in_the_way_is_said_before_training(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "load_task", lambda *_: pytest.fail("it began"))
    monkeypatch.chdir(tmp_path)  # socket names are short
    path = Path("w.pt")
    make, message = PLACES[place]
    make(path)
    before = sorted((file.name, file.lstat().st_mode, file.lstat().st_ino) for file in tmp_path.iterdir())
    for force in (False, True):
        if force and "file" in place:
            continue
        with pytest.raises(UserError, match=message):
            api.train(out=path, force=force, **TRAIN)
    assert sorted((file.name, file.lstat().st_mode, file.lstat().st_ino) for file in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is empty"), (".", "folder|must end in"), ("/proc/x.pt", "cannot be written"),
        ("/dev/null", "must end in"), ("file/below.pt", "cannot be written"), ("x" * 300 + ".pt", "cannot be written"),
        ("zero\0byte.pt", "NUL"), ("/proc/x/y/z.pt", "cannot be written"), ("w.bin", "must end in"),
        ("weights", "must end in"), ("/sys/kernel/x.safetensors", "cannot be written"),
    ],
)  # fmt: skip
def test_places_that_nothing_can_be_written_to(
    tmp_path: Path, path: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "load_task", lambda *_: pytest.fail("it began"))
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match=message):
        api.train(out=path, **TRAIN)
    assert [file.name for file in tmp_path.iterdir()] == ["file"], "and nothing is left of the trial"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", str(place)]).returncode:
        pytest.skip("mounting needs the superuser")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_place_that_can_only_be_read(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "load_task", lambda *_: pytest.fail("it began"))
    for path in (read_only / "w.pt", read_only / "new" / "w.pt"):
        with pytest.raises(UserError, match="Read-only file system"):
            api.train(out=path, **TRAIN)
    with pytest.raises(UserError, match="Read-only file system"):
        check_output_folder(read_only / "new" / "export")


def test_a_full_disk_is_said_first_too(read_only: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(read_only)], check=True)
    with contextlib.suppress(OSError):
        (read_only / "all").write_bytes(bytes(10**6))
    with pytest.raises(UserError, match="No space left"):
        check_output_file(read_only / "w.pt", force=False)
    assert [file.name for file in read_only.iterdir()] == ["all"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th", ".PT"])
def test_the_name_says_the_form_and_the_split_stays_unseen(tmp_path: Path, suffix: str) -> None:
    made = api.train(out=tmp_path / "new" / f"w{suffix}", **TRAIN)
    trained = made.network().state_dict()
    if suffix != ".safetensors":
        content = torch.load(made.weights, weights_only=True)
        network = build_network("small", classes=10, channels=1)
        assert str(network.load_state_dict(content)) == "<All keys matched successfully>"
        assert all(torch.equal(tensor, trained[name]) for name, tensor in content.items())
    assert read_metadata(made.weights)["split_seed"] == "0"
    task = TaskConfig(network="small", weights=str(made.weights), train_images=200)
    loaded = load_task(task, "cpu")
    assert not loaded.seen
    assert load_task(task.model_copy(update={"split_seed": 1}), "cpu").seen
    assert all(torch.equal(tensor, trained[name]) for name, tensor in load_network(task).state_dict().items())


def test_weights_of_other_people_have_seen_it(tmp_path: Path) -> None:
    network = build_network("small", classes=10, channels=1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    torch.save(network.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.pt", "old.pt"):
        assert read_metadata(tmp_path / name) == {}
        assert load_task(TaskConfig(network="small", weights=str(tmp_path / name), train_images=200), "cpu").seen


def test_a_file_is_replaced_if_that_is_asked_for(tmp_path: Path) -> None:
    path, link = tmp_path / "w.pt", tmp_path / "link.pt"
    path.write_bytes(b"old")
    link.symlink_to("w.pt")
    api.train(out=link, force=True, **TRAIN)
    assert link.is_symlink()
    assert torch.load(path, weights_only=True)


@pytest.mark.parametrize("fault", ["folder removed and in the way", "taken by another"])
def test_what_was_trained_is_kept_somewhere(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, measure = tmp_path / "place" / "w.safetensors", PictureTask.score

    def meanwhile(*arguments: object) -> Score:
        if fault == "taken by another":
            out.parent.mkdir(exist_ok=True)
            out.write_bytes(b"precious")
        else:
            out.parent.write_bytes(b"")
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PictureTask, "score", meanwhile)
    with pytest.raises(
        UserError, match=r"cannot be written \(.*\); the content is in .*/results/w-.*\.safetensors: move"
    ):
        api.train(out=out, results=tmp_path / "results", **TRAIN)
    (kept,) = (tmp_path / "results").glob("w-*.safetensors")
    assert read_metadata(kept)["split_seed"] == "0"
    assert not out.exists() or out.read_bytes() == b"precious"


def test_a_long_name_works_while_the_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 245 + ".txt")
    check_output_file(path, force=False)
    write_output_file(path, "text", force=False)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
