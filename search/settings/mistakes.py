"""Sentences about values that will not do: pydantic's faults in our words, with the value as the user wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from types import NoneType
from typing import Any

from pydantic import ValidationError

from models.errors import UserError, one_line

_NOT_GIVEN = object()
_LONGEST = 60  # characters of a value in a message
# Pydantic's words -> ours; its sentences begin with what the input should be.
_OUR_WORDS = {
    "Value error, ": "",
    "Input should be": "it must be",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    ", unable to parse string as a number": "",
    ", unable to parse string as an integer": "",
    "Unable to parse": "unable to parse",
}


def fault_sentence(error: ValidationError, name: str, typed: Any = _NOT_GIVEN) -> str:
    """The first fault of a validation error in one sentence.

    Args:
        name: of the setting that is at fault.
        typed: its value as the user wrote it; left out, the value at fault.
    """
    fault = error.errors()[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # which may have reasons not to repeat the value
        return str(cause)
    words = fault["msg"]
    for theirs, ours in _OUR_WORDS.items():
        words = words.replace(theirs, ours)
    if not fault["loc"] and not name:  # several settings that do not go together
        return words
    if isinstance(typed, str) and "," in typed:
        words += f", and {fault['input']!r} is none; several are comma-separated"
    return f"{name} {value_text(fault['input'] if typed is _NOT_GIVEN else typed)} will not do: {words}"


def value_text(value: Any) -> str:
    """A value as a user wrote it, shortened: numbers as they are, text in quotes, an object by its class."""
    if not isinstance(value, str | Number | NoneType | list | tuple | Mapping):
        return f"of type {type(value).__name__}"
    text = one_line(str(value) if _is_number(value) else repr(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}... ({len(text)} characters)"


def _is_number(value: Any) -> bool:
    """Whether it is one, or text that reads as one."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def first_fault(error: Exception) -> str:
    """The first fault of a validation error in one clause."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    return fault_sentence(error, ".".join(map(str, error.errors()[0]["loc"])))


def check_text(name: str, text: str) -> None:
    """Refuse a text that is empty, which is not the same as leaving the setting out, and one that no file can bear."""
    if not text.strip():
        raise UserError(f"{name} {text!r} is empty; give a value, or leave it out")
    if "\0" in text:  # not repeated: it may hold a password
        raise UserError(f"{name} holds a NUL character, which no name can; give it without")
