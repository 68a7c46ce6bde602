"""Where progress is printed: nowhere, on a console, or on standard output; and how a line of it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from models.errors import printable_text
from search.terminal.streams import readable_text

UNCOUNTED = "FLOPs lie outside layers: neither counted nor compressed"
BROKEN_PIPE = 141  # exit code: what a shell reports of a program that SIGPIPE ended


class PlainConsole(Console):
    """A console on which names and texts of a user's stand as they are: no markup, no emoji, no control characters.

    Characters that the stream's encoding lacks are shown by others. Rich's own colours and cursor movements pass.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of anything that is printed, tables and live ones too."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                text = readable_text(printable_text(segment.text), self.encoding)
                yield segment if text == segment.text else Segment(text, segment.style)

    def on_broken_pipe(self) -> None:
        """Nobody reads on (`| head`): end as other programs do."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        raise SystemExit(BROKEN_PIPE)


def wide_console(file: IO[str]) -> Console:
    """A console for tables: where there is no terminal there is no width to keep to."""
    from search.leaderboard.forms import PIPE_WIDTH  # pandas: few commands print tables, and all start this module

    return PlainConsole(file=file) if file.isatty() else PlainConsole(file=file, width=PIPE_WIDTH)


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """One line of text as it is; long ones are left to the terminal to wrap, so that commands can be copied."""
    console.print(printable_text(text), style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)
