"""Files at places that a user named: tried before the work whose result they take, and never replaced unasked."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from models.errors import UserError
from models.settings import setting_name
from search.files.atomic import atomic_write, temporary_name

_TRIAL = bytes(4096)  # a full disk takes a file's name, but nothing into it


def check_output_file(path: Path, *, force: bool) -> None:
    """Refuse what could not be written in the end, or would be replaced.

    Args:
        force: replace a file that is there.

    Raises:
        UserError: nothing was changed.
    """
    with _refuse_unwritable(path):
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a link to nothing; name another file")
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is a device, a pipe or a socket; name a file")
        if path.exists() and not force:
            raise UserError(f"{path} is there already; name another file, or give "
                            f"{setting_name('force')} to replace it")  # fmt: skip
        with _temporary_folder(path.resolve().parent):
            _try_to_write(path.resolve())


def check_output_folder(folder: Path, advice: str = "choose another place") -> None:
    """Refuse, before the work, a folder that could not be made or written to; nothing is left there.

    Args:
        advice: what would do if it cannot.

    Raises:
        UserError: it cannot.
    """
    with _refuse_unwritable(folder, advice):
        if folder.is_symlink() and not folder.exists():
            raise UserError(f"{folder} is a link to nothing; name another folder")
        with _temporary_folder(folder.resolve()), _temporary_folder(folder.resolve() / temporary_name("trial")):
            pass


def write_output_file(path: Path, content: bytes | str, *, force: bool, spare: Sequence[Path] = ()) -> None:
    """Write a file that `check_output_file` has let pass.

    Args:
        spare: folders that take it if `path` does not.

    Raises:
        UserError: it could not be written there; it says where the content is instead.
    """
    try:
        _write_or_replace(path.resolve(), content, force=force)
    except OSError as error:
        reason = "it is there by now" if isinstance(error, FileExistsError) else error.strerror or str(error)
        place = _write_elsewhere(path, content, spare)
        where = f"the content is in {place}: move it from there" if place else "free space or choose another file"
        raise UserError(f"{path} cannot be written ({reason}); {where}") from error


def _write_or_replace(path: Path, content: bytes | str, *, force: bool) -> None:
    if force:
        atomic_write(path, content)
        return
    complete = path.with_name(temporary_name(path.name))
    try:
        atomic_write(complete, content)
        try:
            os.link(complete, path)  # unlike a rename, a link never replaces a file that was made there meanwhile
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if path.exists():
                raise FileExistsError(path) from None
            complete.replace(path)
    finally:
        complete.unlink(missing_ok=True)


def _write_elsewhere(path: Path, content: bytes | str, spare: Sequence[Path]) -> Path | None:
    name = f"{path.stem[:100]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}{path.suffix}"
    for folder in (*spare, Path(tempfile.gettempdir()), Path.home()):
        with suppress(OSError):
            atomic_write(folder / name, content)
            return (folder / name).absolute()
    return None


def _try_to_write(path: Path) -> None:
    """Make the very file, or another beside one that is there, and remove it."""
    trial = path.with_name(temporary_name(path.name)) if path.exists() else path
    with open(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            file.write(_TRIAL)
            file.flush()
        finally:
            trial.unlink()


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    """The folder exists while this lasts; it and its parents are removed again if they did not exist before."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        for parent in reversed(missing):
            parent.mkdir()
        yield
    finally:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def _refuse_unwritable(path: Path, advice: str = "choose another place") -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{str(path)!r} cannot be written ({reason}); {advice}") from error
