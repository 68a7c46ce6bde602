"""What a group of settings is: typed fields, each declared once, beside its owner, with default, range and docstring.

Options of the command line, keywords and help of the Python interface, `run.json` and printed commands are all made
from these declarations (`search.settings.setting`). A docstring is read by users of both, so it names no flag.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

# Upper ends of ranges: far above what anybody needs, far below what would end in an overflow or in years of work.
MOST_EPOCHS = 100_000
MOST_BATCH = 2**20
MOST_IMAGES = 10**9
MOST_SEED = 2**32 - 1  # NumPy's seeds end here
MOST_REPEATS = 1000  # finalists, seeds of each, factors between rungs


class Settings(BaseModel):
    """Immutable, closed to unknown fields, without NaN and infinity; docstrings under fields describe them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Option:
    """What the command line needs to know of a field beyond its declaration; put into the field's `Annotated`."""

    flag: str | None = None
    """In place of the field's name."""
    argument: bool = False
    """It has no flag."""
    or_object: bool = False
    """Python code may give an object in its place, which is checked elsewhere."""
    repeatable: bool = False
    """A tuple's elements are given one by one, and not separated by commas."""
    default: str | None = None
    """Words for what is taken where nothing is given, if that depends on other settings."""
    metavar: str | None = None
    """In place of the type's name."""
    printed: bool = True
    """Whether the command that reproduces a run names it."""


def _number_text(value: Any) -> Any:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return str(value) if is_number else value


NumberText = Annotated[str, BeforeValidator(_number_text)]
"""A text that Python code may give as a number: `0.5` for the target `"0.5"`."""

_flags_are_shown: ContextVar[bool] = ContextVar("flags_are_shown", default=False)


@contextmanager
def naming_flags() -> Iterator[None]:
    """While this lasts messages name settings as the command line does: `--split-seed`, and not `split_seed`."""
    token = _flags_are_shown.set(True)
    try:
        yield
    finally:
        _flags_are_shown.reset(token)


def setting_name(keyword: str, flag: str | None = None) -> str:
    """A setting's name for a message: its keyword, or on the command line its flag."""
    return (flag or f"--{keyword.replace('_', '-')}") if _flags_are_shown.get() else keyword
