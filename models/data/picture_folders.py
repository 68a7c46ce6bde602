"""Which pictures `imagefolder:DIR` consists of: folders of a training and a test part, one folder in them per class.

Names that begin with a dot are ignored everywhere, as is macOS's `__MACOSX`. Files that are named like pictures and
cannot be read are left out and counted, so every process that lists the folder has the same pictures. They are checked
once, by the process that the user started; workers are sent what it found.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from models.data.duplicates import tell_same_files
from models.data.labels import list_labels, tell_missing_classes
from models.data.pictures import SUFFIXES, WHITE_16_BIT, Check, check_picture, is_deep, quiet_pillow
from models.errors import UserError
from models.notices import add_notice, collect_notices
from models.settings import setting_name
from models.wording import plural

_TEST_NAMES = ("val", "valid", "validation", "test")
_LAYOUT = f"DIR/train and DIR/val (or {', '.join(_TEST_NAMES[1:])}), each with a folder of pictures per class"
_DESKTOP_FILES = ("thumbs.db", "desktop.ini")  # Windows writes these beside pictures
_SHOWN = 3  # faulty pictures named
_THREADS = 8  # they wait for a disk, or decode without Python's lock
MOST_DECODED = 100_000  # pictures of ordinary size: a minute on one core


@dataclass(frozen=True)
class PictureSplit:
    """The readable pictures of one part, in the order of their names, with their class numbers."""

    folder: Path
    files: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class PictureFolder:
    """Both parts of a data set of pictures."""

    train: PictureSplit
    test: PictureSplit
    classes: list[str]
    deep_white: float
    """What is white in 32-bit pictures."""


def class_names(root: Path) -> list[str]:
    """The classes of the training part, in the order of their numbers."""
    return _class_folders(_split_folder(root, ("train",)))


def read_folder(root: Path) -> PictureFolder:
    """List and check both parts, and say what is odd.

    Raises:
        UserError: a part is missing, its classes are not those of the other, or none of its pictures can be read.
    """
    try:
        train, test = _split_folder(root, ("train",)), _split_folder(root, _TEST_NAMES)
        classes = _class_folders(train)
        _check_classes(train, test, classes)
        listings = [_list_files(folder, classes) for folder in (train, test)]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from error
    files = {folder: listing.pictures for folder, listing in zip((train, test), listings, strict=True)}
    _say_other_files(root, [file for listing in listings for file in listing.others])
    # Listed files that are the same as at the last reading are not checked again: a check may decode every picture.
    digest = hashlib.blake2b("\n".join(classes).encode("utf-8", "surrogateescape"))
    for file in (file for pictures in files.values() for file, _ in pictures):
        digest.update(f"{file.relative_to(root)} {_file_stamp(file)}\n".encode("utf-8", "surrogateescape"))
    key = digest.hexdigest()
    if key not in _findings:
        _findings.clear()
        _findings[key] = _check_folder(root, files, classes)
    findings = _findings[key]
    for notice in findings.notices:
        add_notice(notice)
    faults = {root / name: fault for name, fault in findings.faults.items()}
    readable = {folder: _readable_split(folder, pictures, faults) for folder, pictures in files.items()}
    return PictureFolder(readable[train], readable[test], classes, findings.deep_white)


@dataclass(frozen=True)
class FolderFindings:
    """What the check of all pictures of a folder came to; small, as it travels to every worker."""

    faults: Mapping[Path, str]
    """Why pictures cannot be read, by their places in the folder: workers name it by its absolute path."""
    deep_white: float
    notices: tuple[str, ...]


_findings: dict[str, FolderFindings] = {}
"""Of the folder that was read last, under a digest of its files' names, sizes and times: a folder is read several times
in a run, and not checked again unless a file changed."""


def current_findings() -> Mapping[str, FolderFindings]:
    """What a worker has to `adopt_findings` of, so that it does not check the folder again."""
    return dict(_findings)


def adopt_findings(findings: Mapping[str, FolderFindings]) -> None:
    """Take over what another process found; of no effect for a folder whose files differ here."""
    _findings.update(findings)


def _check_folder(root: Path, files: Mapping[Path, list[tuple[Path, int]]], classes: list[str]) -> FolderFindings:
    with collect_notices() as notices:
        checks = _check_pictures([file for pictures in files.values() for file, _ in pictures])
        faults = {file: check.fault for file, check in checks.items() if check.fault}
        _say_faults(root, faults, len(checks))
        train, test = (_readable_split(folder, pictures, faults) for folder, pictures in files.items())
        for split, kind in ((train, "training"), (test, "test")):
            tell_missing_classes(classes, {classes[label] for label in split.labels}, f"{kind} picture")
        tell_same_files(train.files, test.files)
        deep_white = _deep_white(root, checks)
    return FolderFindings({file.relative_to(root): fault for file, fault in faults.items()}, deep_white, tuple(notices))


def _check_classes(train: Path, test: Path, classes: list[str]) -> None:
    """UserError for a class that only the test split has; one that it lacks is merely said."""
    if strange := sorted(set(_class_folders(test, least=1)) - set(classes)):
        raise UserError(
            f"{train} and {test} differ in their classes: {list_labels(strange)} "
            f"{'is' if len(strange) == 1 else 'are'} in {test.name} alone; name the folders alike"
        )


def _split_folder(root: Path, names: tuple[str, ...]) -> Path:
    """The first of these names that is a folder, whatever its case."""
    folders = {name: root / name for name in _list_folders(root)} if root.is_dir() else {}
    by_case = {name.casefold(): folder for name, folder in folders.items()} | folders
    folder = next((by_case[name] for name in names if name in by_case), None)
    if folder is None:
        holds = f"it holds {list_labels(sorted(folders))}" if folders else "it holds no folders"
        holds = holds if root.is_dir() else f"there is no folder {root}"
        raise UserError(f"there is no folder {root / names[0]}; imagefolder:DIR needs {_LAYOUT}; {holds}")
    return folder


def _class_folders(folder: Path, least: int = 2) -> list[str]:
    names = sorted(_list_folders(folder))
    if len(names) < least:
        raise UserError(f"{folder} holds {len(names)} class folders; there must be at least two")
    return names


def _list_folders(folder: Path) -> list[str]:
    """Names of the folders in it, links to folders included."""
    return [entry.name for entry in folder.iterdir() if not _is_ignored(entry.name) and entry.is_dir()]


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


class _Listing(NamedTuple):
    """What lies in the class folders of a part, in the order of the names."""

    pictures: list[tuple[Path, int]]
    """Everything named like a picture, with its class number."""
    others: list[Path]


def _list_files(folder: Path, classes: list[str]) -> _Listing:
    """The files of every class that a split has a folder for."""
    listing = _Listing([], [])
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        for file in sorted(_visible_files(folder / name)):
            if file.suffix.lower() in SUFFIXES:
                listing.pictures.append((file, label))
            elif file.is_file() and file.name.casefold() not in _DESKTOP_FILES:
                listing.others.append(file)
    return listing


def _visible_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, at any depth, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):  # a link may lead back up
                yield from _visible_files(Path(entry.path))
            else:
                yield Path(entry.path)


def _say_other_files(root: Path, others: list[Path]) -> None:
    """Count what is not named like a picture: pictures in a format that is not read would be missed by nobody."""
    if others:
        named = list_labels([_printable_path(file.relative_to(root)) for file in others[:_SHOWN]])
        more = f"; and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
        verb = "is" if len(others) == 1 else "are"
        add_notice(f"{plural(len(others), 'file')} {verb} left out, not named like a picture: {named}{more}")


def _readable_split(folder: Path, pictures: list[tuple[Path, int]], faults: Mapping[Path, str]) -> PictureSplit:
    """The pictures without faults; UserError if none is left."""
    if not pictures:
        raise UserError(f"no images under {folder}; it must hold one folder of images per class")
    readable = [(file, label) for file, label in pictures if file not in faults]
    if not readable:
        file = pictures[0][0]
        raise UserError(
            f"none of the {plural(len(pictures), 'image')} under {folder} can be read; {file}: {faults[file]}"
        )
    return PictureSplit(folder, [file for file, _ in readable], [label for _, label in readable])


def _check_pictures(files: list[Path]) -> dict[Path, Check]:
    """The check of each picture; where there are very many, JPEG and WebP are not decoded for it."""
    decode = len(files) <= MOST_DECODED
    if not decode:
        add_notice(
            f"{len(files):,} pictures are too many to be decoded before the work begins: of JPEG and WebP the ends "
            "were looked at, and damage elsewhere stops the search where it is met"
        )
    check = partial(check_picture, decode=decode)
    with quiet_pillow(), ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(files, pool.map(check, files), strict=True))


def _file_stamp(file: Path) -> str:
    """Size, time and mode: what changes when a file's content or its permissions do."""
    try:
        status = file.stat()
    except OSError:
        return "none"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"


def _say_faults(root: Path, faults: Mapping[Path, str], pictures: int) -> None:
    if not faults:
        return
    first = itertools.islice(faults.items(), _SHOWN)
    named = "; ".join(f"{_printable_path(file.relative_to(root))}: {fault}" for file, fault in first)
    more = f"; and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
    verb = "is" if len(faults) == 1 else "are"
    add_notice(f"{plural(len(faults), 'picture')} {verb} left out of {pictures:,}, which cannot be read: {named}{more}")


def _printable_path(path: Path) -> str:
    """A name that is no text in the file system's encoding can still be printed."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _deep_white(root: Path, checks: dict[Path, Check]) -> float:
    """What is white in pictures of 32 bits, by their extremes over both parts; says how deep pictures are read."""
    modes = Counter(check.mode for check in checks.values() if is_deep(check.mode))
    if sixteen := modes.total() - modes["I"] - modes["F"]:
        add_notice(
            f"{sixteen:,} of {len(checks):,} pictures have grey levels of 16 bits: {WHITE_16_BIT:,} is white "
            f"(of 10 or 12 bits they are dark: give {setting_name('mean')} and {setting_name('std')})"
        )
    unscaled = [check for check in checks.values() if check.mode in ("I", "F")]
    if not unscaled:
        return WHITE_16_BIT
    low, high = min(check.low for check in unscaled), max(check.high for check in unscaled)
    white = next((white for white in (1.0, 255.0, float(WHITE_16_BIT)) if high <= white), None)
    if low < 0 or white is None:
        raise UserError(
            f"pictures of 32 bits under {root} hold values from {low:g} to {high:g}, on no scale of pictures; "
            "give them as arrays, npz:FILE"
        )
    add_notice(f"{len(unscaled):,} of {len(checks):,} pictures have grey levels of 32 bits: {white:g} is white")
    return white
