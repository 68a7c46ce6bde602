"""Where progress is printed: nowhere, on a console, or on standard output; and how a line of it is."""

from __future__ import annotations

from rich.console import Console

UNCOUNTED = "FLOPs lie outside layers: neither counted nor compressed"
Show = bool | Console
"""Whether progress is printed, or where."""


def console_of(show: Show) -> Console:
    """The console that `show` means; a quiet one prints nothing."""
    return show if isinstance(show, Console) else Console(quiet=not show)


def say(console: Console, line: str, style: str | None = None) -> None:
    """One line as it is; long ones are left to the terminal to wrap, so that commands can be copied."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
