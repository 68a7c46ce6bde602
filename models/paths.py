"""Paths as people write them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.errors import UserError


def user_path(text: str | Path) -> Path:
    """The path with `~` for a home folder; `~name` without such a user is a file's own name."""
    return Path(os.path.expanduser(text))  # Path.expanduser raises RuntimeError for an unknown user


def check_utf8_names(*values: Any) -> None:
    """Refuse, before any work, names that the files made of it could not hold, or that could not be read back by them.

    A file's name may be any bytes, which Python keeps as lone surrogates. safetensors opens no such path, and neither
    its metadata nor an export's `config.json` can name one.

    Args:
        values: paths, which count from the root on, and plain values with texts in them.

    Raises:
        UserError: one is not UTF-8.
    """
    for text in _collect_texts(values):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"the name {text!r} is not UTF-8, which weights and exports cannot refer to; rename that folder or "
                "file, or work in another"
            ) from None


def _collect_texts(value: Any) -> Iterator[str]:
    if isinstance(value, Path):
        yield str(value.absolute())
    elif isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _collect_texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _collect_texts(entry)
