"""Who shows what a use case does: the `show` of the Python interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from search.observer import Observer

if TYPE_CHECKING:
    from rich.console import Console

Show: TypeAlias = "bool | Console | Observer"
"""Whether progress is shown, or where, or by whom."""


def observer_of(show: Show) -> Observer:
    """Who shows progress: nobody, standard output, a console, or an observer of the caller's own."""
    if isinstance(show, Observer):
        return show
    if show is False:
        return Observer()
    # The one place where the library reaches for its screens, and only when somebody wants to see them: a notebook
    # imports the library alone, so nobody else could bring them.
    from search.terminal.observer import console_observer

    return console_observer(show)
