"""Calls into a user's own code, from which anything may come: only the user's Ctrl-C passes, all else is a sentence."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from models.errors import UserError, first_line


@contextlib.contextmanager
def reporting_errors(failure: str) -> Iterator[None]:
    """Whatever is raised inside becomes a UserError that begins with `failure`; what is printed goes to stderr.

    `sys.exit` and other exceptions that are no `Exception` would end the program without a word.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise UserError(f"{failure}: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """The kind and the first line of an error; that of `sys.exit` says who called it."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({'' if error.code is None else repr(error.code)})"
    text = first_line(error)
    return text if text == type(error).__name__ else f"{type(error).__name__}: {text}"
