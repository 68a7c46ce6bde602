"""One sentence from faulthandler's dump of a fatal signal, and the script that prints it after a process has died.

This file imports nothing but the standard library: `last_words` starts it as a script for each process, which must be
ready in milliseconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

PACKAGES = ("search", "methods", "models")
NO_TRACE = "no trace was left, as by SIGKILL (from somebody, or the system for want of memory) or os._exit"

# faulthandler's names (Modules/faulthandler.c) -> signals.
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_THREAD = re.compile(r"^(Current thread|Thread|Stack)\b.*\(most recent call first\):$")
_FRAME = re.compile(r'^  File "(?P<path>.+)", line (?P<line>\d+) in (?P<function>.+)$')
_LIBRARIES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Frame:
    """A line of Python code."""

    path: str
    line: int
    function: str

    @property
    def is_library(self) -> bool:
        """Whether it belongs to Python or to an installed package that is not this one."""
        folders = PurePath(self.path).parts
        if self.path.startswith("<"):
            return True
        for folder in _LIBRARIES:
            if folder in folders:  # this project may be installed there too
                return folders[folders.index(folder) + 1] not in PACKAGES
        return self.path.startswith(sysconfig.get_path("stdlib") + os.sep)

    def __str__(self) -> str:
        names = PurePath(self.path).parts
        start = max((i for i, folder in enumerate(names[:-1]) if folder in PACKAGES), default=len(names) - 1)
        return f"{'/'.join(names[start:])}:{self.line} ({self.function})"


def describe_crash(text: str) -> str | None:
    """`SIGSEGV in search/judge/finetune.py:101 (finetune)`; None if the dump names no fatal signal."""
    header = _FATAL.search(text)
    if header is None:
        return None
    name = header[1].strip()
    frame = _last_frame(text[header.end() :])
    return _SIGNALS.get(name, name) + (f" in {frame}" if frame else "")


def _last_frame(dump: str) -> Frame | None:
    """The innermost frame of our code or the user's, in the thread that crashed or else in any thread.

    A thread of OpenMP's pool has no Python frames: faulthandler then dumps all Python threads, none as the current one.
    """
    stacks = sorted(_read_stacks(dump.splitlines()), key=lambda stack: not stack[0])
    return next((frame for _, frames in stacks for frame in frames if not frame.is_library), None)


def _read_stacks(dump_lines: Sequence[str]) -> Iterator[tuple[bool, list[Frame]]]:
    """(is the thread that crashed, its frames from the innermost on) of every thread."""
    frames: list[Frame] = []
    for text in dump_lines:
        if thread := _THREAD.match(text):
            frames = []
            yield thread[1] != "Thread", frames  # filled below, before the caller sorts
        elif frame := _FRAME.match(text):
            frames.append(Frame(frame["path"], int(frame["line"]), frame["function"]))


def main() -> None:
    """Wait for the end of the process at the other end of standard input; print what it died of unless it said goodbye.

    Each line of standard input is a JSON object: `log`, the file or descriptor that faulthandler writes to; `doing`, a
    clause on the work in progress; `advice`. The last object holds. An empty one is the goodbye.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Slurm sends them to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    state: dict[str, str | int] = {}
    for message in sys.stdin:
        state = json.loads(message)
    if not state:
        return
    died = f"error: the process died {state['doing']}".rstrip()
    sentence = f"{died}: {describe_crash(_read_log(state['log'])) or NO_TRACE}"
    print(sentence + (f"; {state['advice']}" if state["advice"] else ""), file=sys.stderr, flush=True)


def _read_log(log: str | int) -> str:
    try:
        with open(log, "rb", closefd=False) if isinstance(log, int) else open(log, "rb") as file:
            file.seek(0)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
