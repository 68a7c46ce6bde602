"""Which candidates of a run were being judged when their process died, and of what: one file per attempt.

`<run>/crashes/<candidate>-<n>.txt` is written before a candidate is judged and removed when its process has lived
through it, so a file that is found at the next start tells of a death. faulthandler writes into it. It begins with the
candidate's JSON; lines that begin with a word and a colon say what counts:

- `process:` judged in the driver itself. The file counts as a death.
- `worker:` judged by a Ray worker. Workers die with their driver, so the file counts only once the driver has added
- `died:` with the cause.
- `settled:` the candidate has an outcome, or its process was about to be stopped: this death counts no more.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from search.candidate import Candidate
from search.dispatch.crash_log import NO_TRACE, describe_crash
from search.dispatch.last_words import faults_to, last_words

ATTEMPTS = 2  # a candidate whose process dies gets one more, in a fresh one
NO_MEMORY = "the machine ran out of memory"


def taskless_key(candidate: Candidate) -> str:
    """The name of a candidate where no run names its task."""
    return candidate.key("")


class AttemptLog:
    """The files of one run's attempts; nothing is written if there is no folder.

    Args:
        name: what a candidate is called by, on the terminal as in the files.
        advice: what a user can do after this process died, for its last words.
    """

    def __init__(self, folder: Path | None, name: Callable[[Candidate], str] = taskless_key, advice: str = "") -> None:
        self._folder = None if folder is None else folder.absolute()
        self._name = name
        self.advice = advice
        self._running: Path | None = None

    def in_folder(self, folder: Path) -> AttemptLog:
        """This log, or one in that folder if it has none."""
        return self if self._folder is not None else AttemptLog(folder, self._name, self.advice)

    def deaths(self, candidate: Candidate) -> list[str]:
        """What its processes died of in earlier attempts that count, oldest first."""
        causes = [_cause(_read(path)) for path in self._files(candidate)]
        return [cause for cause in causes if cause is not None]

    def next_file(self, candidate: Candidate) -> Path | None:
        """Where the next attempt is written down."""
        if self._folder is None:
            return None
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._files(candidate)]
        return self._folder / f"{self._name(candidate)}-{max(numbers, default=0) + 1}.txt"

    @contextlib.contextmanager
    def judging_here(self, candidate: Candidate) -> Iterator[None]:
        """Around the judging of a candidate in this process."""
        path = self.next_file(candidate)
        doing = f"while it judged {self._name(candidate)[:8]} ({candidate.method})"
        # In this order: without an outer one, `last_words` brings a file of its own for faulthandler.
        with last_words(doing, self.advice, path), attempt_file(path, candidate, "process"):
            self._running = path
            try:
                yield
            finally:
                self._running = None

    def excuse(self) -> None:
        """This process is about to be stopped: if it is killed now, that is not the candidate's fault."""
        if self._running is not None:
            _append(self._running, "settled: a stop was asked for")

    def note_death(self, path: Path, candidate: Candidate, cause: str) -> None:
        """The worker that judged it is dead; its own file may lie on a machine that went."""
        if not path.exists():
            _append(path, _header(candidate, "worker", "unknown, it left no file"))
        _append(path, f"died: {cause}")

    def settle(self, candidate: Candidate) -> None:
        """It has an outcome: should it be judged anew one day, that begins with the first attempt."""
        for path in self._files(candidate):
            if _cause(_read(path)) is not None:
                _append(path, "settled: it has an outcome")

    def clear(self) -> None:
        """Remove files of workers that died with their driver, where nothing went wrong."""
        if self._folder is None:
            return
        for path in self._folder.glob("*-*.txt"):
            text = _read(path)
            if _cause(text) is None and describe_crash(text) is None and not _line("died", text):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing died: nothing stays."""
        if self._folder is not None:
            with contextlib.suppress(OSError):  # there are files in it, or there is none
                self._folder.rmdir()

    def _files(self, candidate: Candidate) -> list[Path]:
        if self._folder is None or not self._folder.is_dir():
            return []
        files = self._folder.glob(f"{self._name(candidate)}-*.txt")
        numbered = [path for path in files if path.stem.rpartition("-")[2].isdigit()]
        return sorted(numbered, key=lambda path: int(path.stem.rpartition("-")[2]))


@contextlib.contextmanager
def attempt_file(path: Path | None, candidate: Candidate, kind: str) -> Iterator[None]:
    """Around the judging of a candidate: the file is there, faulthandler writes to it, and at the end it goes.

    Where it cannot be written (a full disk, another machine's folder) the candidate is judged all the same.
    """
    file = None if path is None else _open(path, _header(candidate, kind, f"{os.getpid()} on {platform.node()}"))
    if file is None or path is None:
        yield
        return
    with file, faults_to(file):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a folder that went, or cannot be written any more
                path.unlink()


def death_reason(what: str, causes: Sequence[str]) -> str:
    """Why a candidate failed whose process died in every attempt: one sentence.

    Args:
        what: "worker" or "process".
    """
    times = "once" if len(causes) == 1 else f"{len(causes)} times"
    return f"its {what} died {times}: {', then '.join(dict.fromkeys(causes))}"


def _open(path: Path, header: str) -> IO[bytes] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb", buffering=0)
        file.write(f"{header}\n".encode())
    except OSError:
        return None
    return file


def _header(candidate: Candidate, kind: str, process: str) -> str:
    return f"candidate: {candidate.model_dump_json()}\n{kind}: {process}"


def _cause(text: str) -> str | None:
    """What an attempt died of; None if that does not count."""
    if _line("settled", text) is not None:
        return None
    died = _line("died", text)
    if died is not None:
        return died
    if _line("process", text) is None:
        return None
    return describe_crash(text) or NO_TRACE


def _line(word: str, text: str) -> str | None:
    found = re.search(rf"^{word}: (.*)$", text, re.MULTILINE)
    return None if found is None else found[1]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _append(path: Path, line: str) -> None:
    with contextlib.suppress(OSError), path.open("a") as file:
        file.write(f"{line}\n")
