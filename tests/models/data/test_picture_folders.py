"""Folders of pictures as people have them: what is read, what is left out and said, what is refused in a sentence."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from picture_sets import config, read, write_pictures
from PIL import Image

from models.data.catalog import data_identity
from models.data.picture_folders import adopt_findings, current_findings
from models.data.pictures import UnreadablePictureError
from models.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


def test_nothing_is_said_of_ordinary_folders(folder: Path) -> None:
    data, notices = read(folder)
    assert (len(data.train), len(data.test), data.info.labels, notices) == (12, 6, ("cat", "dog", "owl"), [])


# ---- names


def test_hidden_names_and_other_files_are_ignored_at_every_level(folder: Path) -> None:
    before = data_identity(config(folder))
    for place in (".ipynb_checkpoints", "__MACOSX", "train/.git", "train/__MACOSX", "train/cat/.cache", "val/.hidden"):
        (folder / place).mkdir()
        (folder / place / "x.png").write_bytes((folder / "val/cat/0.png").read_bytes())
    for place in (
        "train/.DS_Store",
        "train/cat/._0.png",
        "train/cat/.x.jpg",
        "val/dog/Thumbs.db",
        "val/dog/desktop.ini",
    ):
        (folder / place).write_bytes(b"\x00\x05\x16\x07mac")
    data, notices = read(folder)
    assert (len(data.train), len(data.test), data.info.classes, notices) == (12, 6, 3, [])
    assert data_identity(config(folder)) == before


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF", ".mpo", ".dib", ".apng", ".pnm", ".pfm"])
def test_every_suffix_of_the_formats_is_taken(folder: Path, suffix: str) -> None:
    original = folder / "train/cat/0.png"
    picture = Image.open(original).convert("F" if suffix == ".pfm" else "RGB")
    original.unlink()
    picture.save(original.with_name("saved" + suffix.lower()))
    original.with_name("saved" + suffix.lower()).rename(original.with_name("0" + suffix))
    data, notices = read(folder)
    assert len(data.train) == 12
    assert not any("left out" in notice for notice in notices)


def test_files_that_are_not_named_like_pictures_are_counted(folder: Path) -> None:
    (folder / "train/cat/a.npy").write_bytes(b"")
    assert read(folder)[1] == ["1 file is left out, not named like a picture: train/cat/a.npy"]
    for name in ("b.heic", "c", "d.txt"):
        (folder / "val/dog" / name).write_bytes(b"")
    (notice,) = read(folder)[1]
    assert notice.startswith("4 files are left out, not named like a picture: train/cat/a.npy, val/dog/b.heic, val/dog")
    assert notice.endswith("; and 1 more")


@pytest.mark.parametrize("name", ["valid", "validation", "test", "Val", "VALID"])
def test_other_names_of_the_test_part(folder: Path, name: str) -> None:
    (folder / "val").rename(folder / "between")
    (folder / "between").rename(folder / name)
    (folder / "train").rename(folder / "Train")
    assert (len(read(folder)[0].train), len(read(folder)[0].test)) == (12, 6)


def test_val_comes_before_test(folder: Path) -> None:
    (folder / "test" / "cat").mkdir(parents=True)
    assert len(read(folder)[0].test) == 6


def test_upper_case_suffixes_unicode_and_undecodable_names(folder: Path) -> None:
    for i, name in enumerate(["A.PNG", "Ünïcode 名前.png", "two words.PnG"]):
        (folder / f"train/cat/{i}.png").rename(folder / "train/cat" / name)
    os.rename(folder / "train/cat/3.png", os.fsencode(folder / "train/cat") + b"/\xff.png")
    os.rename(folder / "val/cat/1.png", os.fsencode(folder / "val/cat") + b"/\xfe.png")
    Path(os.fsdecode(os.fsencode(folder / "val/cat") + b"/\xfe.png")).write_bytes(b"")
    data, (notice,) = read(folder)
    assert len(data.train) == 12
    assert r"val/cat/\udcfe.png: it is an empty file" in notice
    assert data_identity(config(folder)).startswith("imagefolder:")


def test_layouts_that_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"needs DIR/train and DIR/val .* it holds cat, dog, owl$"):
        read(folder / "train")
    (folder / "val/cat").rename(folder / "val/Cat")
    with pytest.raises(UserError, match="differ in their classes: Cat is in val alone"):
        read(folder)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere$"):
        read(folder / "nowhere")


def test_classes_without_pictures_are_said(folder: Path) -> None:
    for file in (folder / "train/dog").iterdir():
        file.unlink()
    for file in (folder / "val/cat").iterdir():
        file.unlink()
    (folder / "val/cat").rmdir()
    data, notices = read(folder)
    assert notices == ["class dog has no training picture", "class cat has no test picture"]
    assert (data.info.classes, data.test.labels.tolist()) == (3, [1, 1, 2, 2])


# ---- faults


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def cut_jpeg(file: Path) -> None:
    Image.open(file).convert("RGB").resize((200, 200)).save(file, "JPEG", quality=95)
    file.write_bytes(file.read_bytes()[:-500])


def spoilt_jpeg(file: Path) -> None:
    """Damaged in the middle; the mark at its end is there."""
    Image.open(file).convert("RGB").resize((200, 200)).save(file, "JPEG", quality=95)
    content = file.read_bytes()
    file.write_bytes(content[:200] + b"\xff" * (len(content) - 202) + content[-2:])


def spoilt_webp(file: Path) -> None:
    """Damaged in the middle; it is as long as it says."""
    Image.open(file).convert("RGB").resize((200, 200)).save(file, "WEBP", quality=95)
    content = file.read_bytes()
    file.write_bytes(content[:40] + b"\xff" * (len(content) - 40))


def cut_webp(file: Path) -> None:
    Image.open(file).convert("RGB").resize((200, 200)).save(file, "WEBP", quality=95)
    file.write_bytes(file.read_bytes()[:-500])


def cut_tiff(file: Path) -> None:
    Image.open(file).convert("RGB").resize((200, 200)).save(file, "TIFF")
    file.write_bytes(file.read_bytes()[:5000])


def wrong_check_sum(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def huge(file: Path) -> None:
    """A PNG header of 20,000 × 20,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    blocks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    body = b"".join(struct.pack(">I", len(b) - 4) + b + struct.pack(">I", zlib.crc32(b)) for b in blocks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def large(file: Path) -> None:
    """More than Pillow takes without a warning, less than it refuses."""
    huge(file)
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 10_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


def replaced_by(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.unlink()
        make(file)

    return change


def socket_at(file: Path) -> None:
    os.chdir(file.parent)  # the path of a socket is short
    socket.socket(socket.AF_UNIX).bind(file.name)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "damaged"),
    "cut jpeg": (cut_jpeg, "damaged"),
    "spoilt jpeg": (spoilt_jpeg, "damaged"),
    "spoilt webp": (spoilt_webp, "damaged"),
    "cut webp": (cut_webp, "damaged"),
    "cut tiff": (cut_tiff, "damaged"),
    "check sum": (wrong_check_sum, "damaged"),
    "empty": (lambda file: file.write_bytes(b""), "it is an empty file"),
    "text": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "in no format of pictures"),
    "400 megapixels": (huge, "megapixels or more, and at most 89 are read"),
    "100 megapixels": (large, "100 megapixels or more, and at most 89 are read"),
    "pipe": (replaced_by(os.mkfifo), "it is a named pipe"),
    "socket": (replaced_by(socket_at), "it is a socket"),
    "device": (replaced_by(lambda file: file.symlink_to("/dev/zero")), "it is a device"),
    "dangling": (replaced_by(lambda file: file.symlink_to("nowhere")), "it is a link to nothing"),
    "loop": (replaced_by(lambda file: file.symlink_to(file.name)), "it is a link to nothing"),
    "folder": (replaced_by(lambda file: file.symlink_to("..")), "it is a link to a folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_left_out_counted_and_named(
    folder: Path, fault: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    damage, words = FAULTS[fault]
    damage(folder / "train/cat/2.png")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        data, (notice,) = read(folder)
        batches = list(data.train.batches(4, seed=0, augment=True))
    assert notice.startswith("1 picture is left out of 18, which cannot be read: train/cat/2.png: ")
    assert words in notice
    assert data.train.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert sum(len(labels) for _, labels in batches) == 11
    assert warned == []
    assert capfd.readouterr().err == ""


def test_a_worker_is_sent_what_was_found_and_checks_nothing_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt_jpeg(folder / "train/cat/2.png")
    monkeypatch.chdir(folder.parent)
    here = read(Path(folder.name))[0]  # by its relative path, which a worker does not know
    findings = pickle.dumps(current_findings())
    read(write_pictures(folder.parent / f"{folder.name}-other"))
    monkeypatch.setattr("models.data.picture_folders.check_picture", lambda *_, **__: pytest.fail("checked again"))
    adopt_findings(pickle.loads(findings))
    there = read(folder)[0]
    assert there.train.labels.tolist() == here.train.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert len(findings) < 1000


def test_what_another_process_found_is_not_believed_of_files_that_differ(folder: Path) -> None:
    read(folder)
    findings = current_findings()
    spoilt_jpeg(folder / "train/cat/2.png")
    adopt_findings(findings)
    assert len(read(folder)[0].train) == 11


def test_more_pictures_than_can_be_decoded_are_looked_at_in_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.data.picture_folders.MOST_DECODED", 17)
    cut_jpeg(folder / "train/cat/1.png")
    spoilt_jpeg(folder / "train/cat/2.png")
    data, (too_many, left_out) = read(folder)
    assert too_many.startswith("18 pictures are too many to be decoded before the work begins")
    assert left_out.startswith("1 picture is left out of 18, which cannot be read: train/cat/1.png: it is damaged")
    with pytest.raises(UnreadablePictureError, match=r"^image .*/train/cat/2.png cannot be read: .*; put a readable"):
        list(data.train.batches(4))


def test_many_faults_are_counted_and_three_are_named(folder: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            (folder / f"train/{name}/{i}.png").write_bytes(b"")
    (notice,) = read(folder)[1]
    assert notice.startswith("6 pictures are left out of 18, which cannot be read: train/cat/0.png")
    assert notice.endswith("; and 3 more")


def test_a_part_without_a_readable_picture_is_refused(folder: Path) -> None:
    for file in (folder / "val").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 6 images under .*/val can be read; .*cat/0.png: it is an empty"):
        read(folder)


def test_the_identity_is_that_of_the_pictures_that_are_read(folder: Path) -> None:
    good = (folder / "train/cat/2.png").read_bytes()
    (folder / "train/cat/2.png").unlink()
    without = data_identity(config(folder))
    (folder / "train/cat/2.png").write_bytes(good[:100])
    assert data_identity(config(folder)) == without
    (folder / "train/cat/2.png").write_bytes(good)
    assert data_identity(config(folder)) != without


def test_links_that_lead_back_up_are_no_trap(folder: Path) -> None:
    (folder / "train/cat/up").symlink_to(folder)
    (folder / "train/owl").rename(folder / "owls")
    (folder / "train/owl").symlink_to(folder / "owls")  # a class may lie elsewhere
    assert len(read(folder)[0].train) == 12


def test_test_pictures_among_the_training_pictures_are_said(folder: Path) -> None:
    (folder / "val/dog/0.png").write_bytes((folder / "train/cat/1.png").read_bytes())
    (notice,) = read(folder)[1]
    assert notice.startswith("WARNING: 1 of the 6 test images are training images as well")
