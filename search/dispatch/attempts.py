"""Files that tell, after a process has died, which candidate it was judging, and of what it died: one per attempt.

`<run>/crashes/<candidate>-<n>.txt` is written before a candidate is judged and removed when its process has lived
through it, so a file that lies there at the next start tells of a death. faulthandler writes into it. The file begins
with the candidate's JSON; other lines that begin with a word and a colon decide whether it counts as a death:

- `process:` judged in the driver itself. The file counts as a death.
- `worker:` judged by a Ray worker. Workers die with their driver, so the file counts only together with
- `died:` the cause, which the driver adds.
- `settled:` the candidate has an outcome, or its process was about to be stopped: the file does not count any more.
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
from search.machine.crash_log import NO_TRACE, describe_crash
from search.machine.last_words import last_words, redirect_faulthandler

ATTEMPTS = 2  # a candidate whose process dies is judged once more, in another process
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

    def past_deaths(self, candidate: Candidate) -> list[str]:
        """What the candidate's processes died of in earlier attempts that count, oldest first."""
        causes = [_counted_cause(_read_text(path)) for path in self._files_of(candidate)]
        return [cause for cause in causes if cause is not None]

    def next_file(self, candidate: Candidate) -> Path | None:
        """Where the next attempt is written down."""
        if self._folder is None:
            return None
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._files_of(candidate)]
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

    def excuse_running(self) -> None:
        """This process is about to be stopped: if it is killed now, the death is not held against the candidate."""
        if self._running is not None:
            _append_line(self._running, "settled: a stop was asked for")

    def note_death(self, path: Path, candidate: Candidate, cause: str) -> None:
        """Add the cause of a worker's death to the attempt's file."""
        if not path.exists():  # the worker wrote it on a machine that went
            _append_line(path, _attempt_header(candidate, "worker", "unknown, it left no file"))
        _append_line(path, f"died: {cause}")

    def settle_deaths(self, candidate: Candidate) -> None:
        """The candidate has an outcome: if it is judged anew one day, its attempts are counted from one again."""
        for path in self._files_of(candidate):
            if _counted_cause(_read_text(path)) is not None:
                _append_line(path, "settled: it has an outcome")

    def remove_harmless(self) -> None:
        """Remove files that tell of no crash: of workers that died with their driver, without a word of a cause."""
        if self._folder is None:
            return
        for path in self._folder.glob("*-*.txt"):
            text = _read_text(path)
            if _counted_cause(text) is None and describe_crash(text) is None and not _marked_line("died", text):
                path.unlink(missing_ok=True)

    def remove_empty_folder(self) -> None:
        """Leave no folder where nothing died."""
        if self._folder is not None:
            with contextlib.suppress(OSError):  # there are files in it, or there is none
                self._folder.rmdir()

    def _files_of(self, candidate: Candidate) -> list[Path]:
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
    file = (
        None
        if path is None
        else _create_file(path, _attempt_header(candidate, kind, f"{os.getpid()} on {platform.node()}"))
    )
    if file is None or path is None:
        yield
        return
    with file, redirect_faulthandler(file):
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


def _create_file(path: Path, header: str) -> IO[bytes] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb", buffering=0)
        file.write(f"{header}\n".encode())
    except OSError:
        return None
    return file


def _attempt_header(candidate: Candidate, kind: str, process: str) -> str:
    return f"candidate: {candidate.model_dump_json()}\n{kind}: {process}"


def _counted_cause(text: str) -> str | None:
    """What an attempt died of; None if that does not count."""
    if _marked_line("settled", text) is not None:
        return None
    died = _marked_line("died", text)
    if died is not None:
        return died
    if _marked_line("process", text) is None:
        return None
    return describe_crash(text) or NO_TRACE


def _marked_line(word: str, text: str) -> str | None:
    """What stands behind a word and a colon at the beginning of a line."""
    match = re.search(rf"^{word}: (.*)$", text, re.MULTILINE)
    return None if match is None else match[1]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _append_line(path: Path, line: str) -> None:
    with contextlib.suppress(OSError), path.open("a") as file:
        file.write(f"{line}\n")
