"""Code that outcomes depend on, by its file, its name and a digest: `/home/me/method.py:MyMethod@1f3a5c7e9b2d`.

Configurations and outcomes hold the *identity* alone, `MyMethod@1f3a5c7e9b2d`: the same file in another folder is the
same method, a changed one is another, and nothing that a ledger says can make this program execute a file. Beside its
identities a configuration keeps the *pinned* form, which says where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.settings import setting_name
from models.user.code import is_user_spec, load_function, split_spec
from models.user.source_files import source_digest

DIGITS = 12  # of the digest
_DIGEST = re.compile(rf"@([0-9a-f]{{{DIGITS}}})$")
_executed: dict[Path, str] = {}  # file -> its digest when this process executed it


def split_digest(name: str) -> tuple[str, str | None]:
    """`file.py:MyMethod@1f3a5c7e9b2d` -> `file.py:MyMethod` and the digest; None if there is none."""
    match = _DIGEST.search(name)
    return (name, None) if match is None else (name[: match.start()], match[1])


def code_identity(name: str) -> str:
    """What outcomes call it: `MyMethod@1f3a5c7e9b2d`; a name that is no file's stays as it is."""
    return name.rpartition(":")[2] if is_user_spec(name) else name


def code_label(name: str) -> str:
    """`MyMethod`: what its sites and options are called after."""
    return split_digest(code_identity(name))[0]


def pin_file(spec: str, kind: str) -> str:
    """The pinned form of `path/to/file.py:name`; UserError if there is no such file, or not with its digest."""
    plain, digest = split_digest(spec)
    file, name = split_spec(plain, kind)
    present = file_digest(file)
    if digest not in (None, present):
        raise UserError(
            f"{kind} file {file} has changed ({digest} then, {present} now); bring back what the run was begun with, "
            f"or search anew under another {setting_name('name')}"
        )
    return f"{file}:{name}@{present}"


def load_pinned(pinned: str, kind: str) -> Callable[..., Any]:
    """The function or class that a pinned form names; UserError if the file has changed since it was executed."""
    plain, digest = split_digest(pinned)
    file, _ = split_spec(plain, kind)
    function = load_function(plain, kind)
    if _executed.setdefault(file, file_digest(file)) != digest:
        raise UserError(f"{kind} file {file} has changed since this process executed it; start Python anew")
    return function


def file_digest(file: Path) -> str:
    """Of the file and of what it imports from beside it."""
    return source_digest(file)[:DIGITS]
