"""Calls into a user's own code, from which anything may come: only the user's Ctrl-C passes, all else is a sentence."""

from __future__ import annotations

import contextlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from models.errors import UserError, first_line

_PACKAGES = Path(__file__).resolve().parents[2]
_NOT_USERS = tuple(str(_PACKAGES / name) + "/" for name in ("models", "methods", "search"))
_LIBRARIES = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
NO_GPU = "it needs a GPU and there is none here; use the task's `device`"


@contextlib.contextmanager
def reporting_errors(failure: str, *, placed: bool = False) -> Iterator[None]:
    """Whatever is raised inside becomes a UserError that begins with `failure`; what is printed goes to stderr.

    `sys.exit` and other exceptions that are no `Exception` would end the program without a word.

    Args:
        placed: say in which line of the user's own it happened, and where a GPU is missing, that.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise UserError(f"{failure}: {describe_error(error)}{_place_of(error) if placed else ''}") from error


def describe_error(error: BaseException) -> str:
    """The kind and the first line of an error; that of `sys.exit` says who called it."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({'' if error.code is None else repr(error.code)})"
    text = first_line(error)
    return text if text == type(error).__name__ else f"{type(error).__name__}: {text}"


def is_gpu_missing(error: BaseException | None) -> bool:
    """Whether torch was asked for a GPU on a machine that has none."""
    is_torchs = isinstance(error, RuntimeError | AssertionError)
    return is_torchs and re.search("CUDA|NVIDIA", str(error)) is not None and not torch.cuda.is_available()


def _place_of(error: BaseException) -> str:
    """` (line 12 of net.py)`, the last line that is neither ours nor a library's; empty if there is none."""
    hint = f"; {NO_GPU}" if is_gpu_missing(error) else ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_NOT_USERS, *_LIBRARIES, "<frozen")):
            return f" (line {frame.lineno} of {frame.filename}){hint}"
    return hint
