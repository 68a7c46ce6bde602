"""Where arrays of images come from: scikit-learn, torchvision, `npz:FILE`, a user's function."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.data.array_checks import ARRAY_NAMES, Arrays, check_arrays
from models.data.named_sets import unknown_data
from models.data.splits import stratified_split
from models.errors import UserError, first_line
from models.locks import machine_lock
from models.paths import user_path
from models.task_config import TaskConfig
from models.user.code import call_user, is_user_spec, load_function
from models.user.spec_names import data_name

Array = npt.NDArray[Any]
_DOWNLOAD_TIMEOUT = 60.0  # seconds without a byte


def read_arrays(config: TaskConfig) -> Arrays:
    """All images of a data set that fits in memory; UserError if it is unknown, missing or malformed."""
    name = config.data
    if name == "digits":
        return _read_digits()
    if name in _TORCHVISION:
        return _read_torchvision(name, Path(config.data_root))
    if name.startswith("npz:"):
        return check_arrays(_read_npz(_npz_path(name)), data_name(name), owned=True)
    if is_user_spec(name):
        return _call_users_function(name)
    raise unknown_data(name)


def array_identity(config: TaskConfig) -> str:
    """A digest of the content of a file that holds the data, or of the arrays that a user's function returns."""
    name = config.data
    if name.startswith("npz:"):
        path = _npz_path(name)
        with _npz_errors(path), zipfile.ZipFile(path) as archive:
            # The archive's own check sums stand for the content: no need to read gigabytes again.
            entries = sorted((entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist())
        return "npz:" + hashlib.sha256(repr(entries).encode()).hexdigest()[:20]
    if is_user_spec(name):
        if name not in _digests:
            _call_users_function(name)
        return _digests[name]
    raise unknown_data(name)


def _npz_path(name: str) -> Path:
    path = user_path(name.removeprefix("npz:"))
    if not path.is_file():
        if data_name(name) != name:
            raise UserError(f"there is no file {path}, in which {data_name(name)} were kept; give them again")
        raise UserError(f"data {name!r}: there is no file {path}")
    return path


@contextlib.contextmanager
def _npz_errors(path: Path) -> Iterator[None]:
    """Whatever zipfile, zlib and NumPy raise for a bad file becomes a UserError that says what the file is instead."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        if path.is_file() and not _is_numpy_file(path):
            raise UserError(f"{path} is no npz file; write one with numpy.savez, {', '.join(ARRAY_NAMES)}") from error
        if "pickle" in str(error):
            raise UserError(f"{path} holds Python objects, which are not loaded; save plain arrays") from error
        raise UserError(f"{path} cannot be read as an npz file ({first_line(error)})") from error


def _is_numpy_file(path: Path) -> bool:
    """By its first bytes: a zip archive or a single array, whole or not."""
    with path.open("rb") as file:
        return file.read(6).startswith((b"PK", b"\x93NUMPY"))


def _read_npz(path: Path) -> dict[str, Array]:
    """The four arrays, by name, without unpickling anything; UserError if one is missing."""
    with _npz_errors(path):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path} is a single array; an npz file with {', '.join(ARRAY_NAMES)} is needed")
        with archive:
            missing = [name for name in ARRAY_NAMES if name not in archive.files]
            if missing:
                raise UserError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(archive.files) or 'nothing'}")
            return {name: archive[name] for name in ARRAY_NAMES}


def _call_users_function(spec: str) -> Arrays:
    """The checked arrays that `path/to/file.py:function` returns; their digest is kept."""
    arrays = call_user(spec, load_function(spec, "data"))
    if not isinstance(arrays, (tuple, list)) or len(arrays) != len(ARRAY_NAMES):
        names, got = ", ".join(ARRAY_NAMES), type(arrays).__name__
        raise UserError(f"data {spec} must return the four arrays {names}, not a {got}")
    checked = check_arrays(dict(zip(ARRAY_NAMES, arrays, strict=True)), spec)
    _digests[spec] = f"arrays:{checked.content_digest()}"
    return checked


# Of what users' functions returned last: whoever asks for the identity has usually just read the arrays.
_digests: dict[str, str] = {}


def _read_digits() -> Arrays:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))[..., None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = stratified_split(labels, 0.2, seed=0)
    return Arrays(images[train], labels[train], images[test], labels[test])


def _read_torchvision(name: str, root: Path) -> Arrays:
    with machine_lock(str((root / name).absolute())):  # workers that start together must not download over each other
        datasets = [_open_part(name, root, train) for train in (True, False)]
    images = [np.asarray(data.data) for data in datasets]
    labels = [np.asarray(data.labels if name == "svhn" else data.targets) for data in datasets]
    return check_arrays(
        dict(zip(ARRAY_NAMES, (images[0], labels[0], images[1], labels[1]), strict=True)), name, published=True
    )


def _open_svhn(root: Path, train: bool, download: bool) -> Any:
    from torchvision.datasets import SVHN

    return SVHN(str(root), split="train" if train else "test", download=download)


def _open_with(class_name: str) -> Callable[[Path, bool, bool], Any]:
    def open_set(root: Path, train: bool, download: bool) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, class_name)(str(root), train=train, download=download)

    return open_set


_TORCHVISION: dict[str, Callable[[Path, bool, bool], Any]] = {
    "cifar10": _open_with("CIFAR10"),
    "cifar100": _open_with("CIFAR100"),
    "svhn": _open_svhn,
    "mnist": _open_with("MNIST"),
    "fashion-mnist": _open_with("FashionMNIST"),
}


def _open_part(name: str, root: Path, train: bool) -> Any:
    """The training or the test part of a torchvision set, downloaded only if it is not there."""
    try:
        return _TORCHVISION[name](root, train, False)
    except RuntimeError:  # torchvision's way to say that files are missing or have wrong check sums
        return _download_part(name, root, train)
    except Exception as error:
        raise UserError(f"{name} in {root.absolute()} cannot be read ({first_line(error)}); delete it there") from error


def _download_part(name: str, root: Path, train: bool) -> Any:
    previous_timeout = socket.getdefaulttimeout()
    try:
        # torchvision downloads with urllib and gives it no timeout: a server that goes silent would be waited for
        # for ever.
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
        with contextlib.redirect_stdout(sys.stderr):  # a command's own output stays clean
            return _TORCHVISION[name](root, train, True)
    except Exception as error:
        raise UserError(
            f"{name} is not in {root.absolute()} and could not be downloaded ({first_line(error)}); "
            "put torchvision's files there, or give arrays as npz:FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(previous_timeout)
