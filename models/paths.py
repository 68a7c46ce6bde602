"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """The path with `~` for a home folder; `~name` without such a user is a file's own name."""
    return Path(os.path.expanduser(text))  # Path.expanduser raises RuntimeError for an unknown user
