"""What a command that failed says, in one sentence, and its exit code.

2: something that the user can mend. 70 (`EX_SOFTWARE`): a fault of this program, whose details go into a file. 130: it
was interrupted. 141: nobody reads its output any more.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback

from pydantic import ValidationError
from typer import Abort
from typer.exceptions import TyperException

from models.errors import UserError, one_line
from models.user.code import describe_users_fault
from search.files.atomic import final_name
from search.ledger.location import scrub_passwords
from search.machine.system_errors import GONE, KNOWN_NUMBERS, PROCESS_LIMITS, system_advice
from search.terminal.console import BROKEN_PIPE
from search.terminal.streams import READABLE, abandon_streams

REFUSED, BUG, INTERRUPTED = 2, 70, 130
_LENGTH = 600  # characters of a foreign error's text that are shown
_LONGEST = 1500  # characters of a sentence of our own: a value in it may be of any length


def report_failure(error: BaseException) -> int:
    """Say on standard error what went wrong; the exit code. Nothing is said where nobody reads."""
    code, sentence = explain_failure(error)
    if code == BROKEN_PIPE:
        return code
    try:
        print(f"{'' if code == INTERRUPTED else 'error: '}{scrub_passwords(sentence)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # standard error is closed as well: the exit code has to say it
        abandon_streams()
    return code


def explain_failure(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for anything that can end a command."""
    if isinstance(error, UserError):
        return REFUSED, _both_ends(one_line(str(error)))
    if isinstance(error, TyperException):
        return REFUSED, _of_option(error)
    if isinstance(error, KeyboardInterrupt | Abort):
        return INTERRUPTED, "stopped"
    if isinstance(error, BrokenPipeError):
        abandon_streams()
        return BROKEN_PIPE, "nobody reads the output any more"
    if isinstance(error, MemoryError):
        return REFUSED, "there is not enough memory; use a smaller --batch-size, fewer --workers or fewer images"
    # With a file's name, or a number that says what the machine lacks, the user can mend it; else the fault is ours.
    if isinstance(error, OSError) and (error.filename is not None or error.errno in KNOWN_NUMBERS - GONE):
        return REFUSED, _of_system(error)
    if (fault := describe_users_fault(error)) is not None:
        return REFUSED, _both_ends(one_line(fault))
    return BUG, _of_bug(error)


def _of_option(error: TyperException) -> str:
    """An option's value that is not of its kind is named with its value, which typer leaves out."""
    cause, parameter = error.__cause__, getattr(error, "param", None)
    if isinstance(cause, ValidationError) and parameter is not None:
        fault = cause.errors()[0]
        value, words = str(fault["input"]), fault["msg"].partition(",")[0]
        hint = parameter.get_error_hint().strip("'")
        return one_line(f"{hint} {_shorten_text(value)!r} will not do: {words[0].lower()}{words[1:]}")
    return one_line(error.format_message())


def _of_system(error: OSError) -> str:
    """What the operating system refused, by the name that the user knows and not by that of a temporary file."""
    reason = error.strerror or type(error).__name__
    elsewhere = "" if error.errno in PROCESS_LIMITS else ", or choose another place"
    advice = f"{system_advice(error.errno)}{elsewhere}"
    if error.filename is None:
        return f"the system refused: {reason}; {advice}"
    name = final_name(os.fsdecode(error.filename))
    return one_line(f"{name} cannot be used: {reason}; {advice}")


def _of_bug(error: BaseException) -> str:
    what = _shorten_text(one_line(f"{type(error).__name__}: {error}".rstrip(": ")))
    try:
        where = f"details are in {_save_details(error)}"
    except OSError as refusal:
        where = f"details could not be saved ({refusal.strerror})"
    return f"this is a fault of ratio-search, not of yours: {what}; {where}; please report it with them"


def _save_details(error: BaseException) -> str:
    """The traceback and what it takes to understand it, in a file that its owner alone can read."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    handle, path = tempfile.mkstemp(prefix=f"ratio-search-fault-{stamp}-", suffix=".txt")
    with open(handle, "w", encoding="utf-8", errors=READABLE) as file:
        facts = f"command: {sys.argv}\npython {sys.version}\n{platform.platform()}\n\n"
        file.write(scrub_passwords(facts + "".join(traceback.format_exception(error))))
    return path


def _both_ends(text: str) -> str:
    # The end is what would do, so it is the middle that is left out.
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def _shorten_text(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"
