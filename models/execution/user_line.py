"""The line of a network's code that is running, or that failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch

_ROOT = Path(__file__).resolve().parents[2]
_PASSED_OVER = (f"{Path(torch.__file__).parent}/", f"{_ROOT / 'methods'}/", f"{_ROOT / 'models' / 'execution'}/", "<")


class EndlessPassError(RuntimeError):
    """A forward pass calls its modules over and over."""


def running_line() -> str | None:
    """The innermost running line that is neither PyTorch's nor of what traces networks here: `net.py:31`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PASSED_OVER):
        frame = frame.f_back
    return None if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def describe_failure(error: Exception, path: Sequence[str]) -> str:
    """What does not run: the innermost module, and the line of the user's code.

    The error's own text is left out: it says what a narrowed copy met, of which the user has no notion.

    Args:
        path: the modules in which the error was raised, the innermost last.
    """
    place = next((name for name in reversed(path) if name), "the network")
    line = _failing_line(error)
    failure = "does not come to an end" if isinstance(error, EndlessPassError) else "does not run"
    return f"{place} ({line}) {failure}" if line else f"{place} {failure}"


def _failing_line(error: BaseException) -> str | None:
    """The innermost line, as `running_line`, among those in which an error was raised."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_PASSED_OVER):
            line = f"{Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
