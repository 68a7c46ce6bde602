"""Commands that work when they are pasted into a shell, whatever names they contain."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from models.errors import printable_text


def shell_line(words: Iterable[str]) -> str:
    """The words as one line for a shell."""
    return " ".join(map(shell_word, words))


def shell_word(word: str) -> str:
    """One word. Line ends, control characters and bytes that are no text are spelt as bash, zsh and ksh read them."""
    if word == printable_text(word) and not any(char in word for char in "\n\t"):
        return shlex.quote(word)
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word)
    )
    return f"$'{''.join(plain)}'"


def option_words(flag: str, value: str) -> list[str]:
    """An option and its value; as one word where the value would be taken for another option."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def path_argument(path: str | Path) -> str:
    """A path that stands as an argument and is not taken for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text
