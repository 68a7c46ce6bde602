"""What a setting may be at all: no empty text, no NaN or infinity, no number that can only be a slip of the keyboard.

The command line and the Python interface check what they are given by these two functions. Stored records are not
checked again: a run of an earlier version may hold more, and is still read.
"""

from __future__ import annotations

import math
import os
from typing import Any

from models.errors import UserError

# Each is far above what anybody needs and far below what would end in an overflow or in years of work.
MOST_EPOCHS = 100_000
MOST_BATCH = 2**20  # images
MOST_RATE = 1000.0  # learning rate
MOST_DECAY = 100.0
MOST_TEMPERATURE = 10_000.0
MOST_IMAGES = 10**9
MOST_LEVELS = 1000
MOST_SEED = 2**32 - 1  # NumPy's seeds end here
MOST_CANDIDATES = 10**6
MOST_REPEATS = 1000  # finalists, seeds of each, factors between rungs
MOST_WORKERS = 1024
MOST_GPUS = 64  # of one worker
MOST_SECONDS = 366 * 86400.0


def check_text(name: str, value: str | os.PathLike[str]) -> None:
    """Refuse an empty text: it is neither a value nor the same as leaving the setting out."""
    if not str(value).strip():
        raise UserError(f"{name} {str(value)!r} is empty; give a value, or leave it out")


def check_number(name: str, value: float, least: float | None = None, most: float | None = None) -> None:
    """Refuse NaN, infinity and what lies outside `least` to `most`, both included."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} {value} will not do: it must be a finite number")
    below, above = least is not None and value < least, most is not None and value > most
    if below or above:
        wanted = f"at least {least:,.10g}" if below else f"at most {most:,.10g}"
        raise UserError(f"{name} {_short(value)} will not do: it must be {wanted}")


def check_setting(name: str, value: Any, least: float | None = None, most: float | None = None) -> None:
    """Check a setting of any kind, and each element of one that is a list."""
    if isinstance(value, list | tuple):
        for element in value:
            check_setting(name, element, least, most)
    elif isinstance(value, str | os.PathLike):
        check_text(name, value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        check_number(name, value, least, most)


def _short(value: float) -> str:
    """As it was written, unless it has hundreds of digits."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} digits)"
