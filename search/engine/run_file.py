"""The file `run.json` in a run's folder: read with one sentence for every way in which it may be damaged."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.settings import setting_name

RUN_FILE = "run.json"


class DamagedRunError(UserError):
    """The file is there and can be opened, but does not hold what a search writes."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"{path} is damaged ({fault}); restore it from a copy, or start the run anew with its own settings and "
            f"{setting_name('name')} {path.parent.name}: what its ledger holds is not paid for again"
        )


def has_run_file(folder: Path) -> bool:
    """Whether something of that name lies in the folder, readable or not: then the folder is meant as a run."""
    return os.path.lexists(folder / RUN_FILE)


def read_run_file(folder: Path) -> dict[str, Any]:
    """The JSON object in the folder's `run.json`.

    Raises:
        DamagedRunError: it holds something else.
        UserError: it cannot be read at all.
    """
    path = folder / RUN_FILE
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
            raise UserError(f"{path} is {kind} and not the record of a run; move it away, and restore the file or "
                            "start the run anew")  # fmt: skip
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); change its permissions, or restore it from a copy"
        ) from error
    return _parse_object(path, content)


def _parse_object(path: Path, content: bytes) -> dict[str, Any]:
    if not content.strip():
        raise DamagedRunError(path, "it is empty")
    try:
        record = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DamagedRunError(path, f"it is not UTF-8 text from byte {error.start} on") from None
    except RecursionError:
        raise DamagedRunError(path, "its values are nested too deeply") from None
    except ValueError as error:
        raise DamagedRunError(path, f"it is no JSON: {error}") from None
    if not isinstance(record, dict):
        raise DamagedRunError(path, f"it holds {json_kind(record)} in place of an object")
    return record


def json_kind(value: object) -> str:
    """What JSON calls a value's kind, with its article."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
