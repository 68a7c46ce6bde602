"""One sentence on standard error when this process dies of a crash in native code.

A process that gets SIGSEGV or SIGKILL cannot print anything. A small second process, its companion, waits until the
pipe between them closes, reads faulthandler's file, and prints the sentence. A process has at most one companion.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from search.machine import crash_log


class Companion:
    """The process that waits for the end of this one."""

    def __init__(self) -> None:
        self._faults: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, open until the goodbye
        command = [sys.executable, "-I", "-S", crash_log.__file__]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            pass_fds=[self._faults.fileno()],
            start_new_session=True,  # Ctrl-C and `timeout` signal the whole group
        )
        self._states: list[dict[str, str | int]] = []

    @contextlib.contextmanager
    def at_work(self, doing: str, advice: str = "", log: Path | None = None) -> Iterator[None]:
        """While this lasts, the sentence on a crash says what the process was doing; afterwards what it did before.

        Args:
            doing: a clause: "while it trained the network".
            advice: what the user can do after the crash.
            log: the file that faulthandler writes to; None for the companion's own.
        """
        state = {"log": str(log) if log else self._faults.fileno(), "doing": doing, "advice": advice}
        self._states.append(state)
        self._send_state(state)
        try:
            yield
        finally:
            self._states.remove(state)
            self._send_state(self._states[-1] if self._states else {})

    def _send_state(self, state: dict[str, str | int]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the companion was killed: there will be no sentence
            self._process.stdin.write(json.dumps(state) + "\n")
            self._process.stdin.flush()

    @contextlib.contextmanager
    def receiving_faults(self) -> Iterator[None]:
        """faulthandler writes to the companion's file while this lasts; at the end the companion exits silently."""
        with redirect_faulthandler(self._faults):
            try:
                yield
            finally:
                self._send_state({})
                with contextlib.suppress(OSError):
                    self._process.communicate()
                self._faults.close()


_companion: Companion | None = None


@contextlib.contextmanager
def last_words(doing: str = "", advice: str = "", log: Path | None = None) -> Iterator[None]:
    """While this lasts, a crash of this process is reported in a sentence. Nests: the innermost clause holds.

    Args: as of `Companion.at_work`.
    """
    global _companion
    with contextlib.ExitStack() as stack:
        if _companion is None:
            try:
                _companion = Companion()
            except OSError:  # no process can be started: faulthandler's own dump is all there will be
                yield
                return
            stack.callback(_forget_companion)
            stack.enter_context(_companion.receiving_faults())
        stack.enter_context(_companion.at_work(doing, advice, log))
        yield


def _forget_companion() -> None:
    global _companion
    _companion = None


@contextlib.contextmanager
def redirect_faulthandler(file: IO[bytes]) -> Iterator[None]:
    """faulthandler writes to this file while this lasts, and afterwards to the file that it wrote to before."""
    foreign = not _files and faulthandler.is_enabled()  # by `python -X faulthandler`, IPython or pytest
    faulthandler.enable(file)
    _files.append(file)
    try:
        yield
    finally:
        _files.remove(file)
        faulthandler.disable()
        if _files:
            faulthandler.enable(_files[-1])
        elif foreign and sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):
                faulthandler.enable(sys.__stderr__)


_files: list[IO[bytes]] = []  # faulthandler has one file at a time and cannot be asked which
