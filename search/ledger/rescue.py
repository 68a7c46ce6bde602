"""A file for outcomes that the ledger's storage refuses, until it takes them: not even a full disk loses one."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from search.files.atomic import atomic_write
from search.ledger.record import Record, load_json


class Rescue:
    """The file, and one in the temporary folder for when its own disk is what is full."""

    def __init__(self, path: Path | None, task: str) -> None:
        """`path`: None keeps outcomes in memory alone."""
        self._task = task
        self._places = [] if path is None else [path, _second_place(path, task)]
        self._holding: set[Path] = set()  # places with nothing but outcomes of this task
        self._foreign = set[Path]()

    def save_records(self, records: Sequence[Record]) -> tuple[str, bool]:
        """Keep all of these; where they are in words, and whether they survive this process."""
        if not self._places:
            return "the outcome is kept in memory", True  # as whoever opened the ledger chose
        lines = [json.dumps({"task": self._task, "record": record.to_json()}) for record in records]
        faults = []
        for place in self._places:
            try:
                atomic_write(place, "".join(line + "\n" for line in lines))
            except OSError as error:
                faults.append(f"{place} cannot be written either ({error.strerror})")
                continue
            self._holding.add(place)
            return f"the outcome is kept in {place}", True
        return f"the outcome is kept in memory alone, as {faults[0]}", False

    def load_records(self) -> tuple[list[Record], int]:
        """The records of this task in the files, and how many lines cannot be read."""
        records, unreadable = list[Record](), 0
        for place in self._places:
            for line in _lines_of_user(place):
                try:
                    body = load_json(line)
                    record = Record.from_json(body["record"])
                except (ValueError, KeyError, TypeError):
                    unreadable += 1
                    continue
                if body.get("task") == self._task:
                    records.append(record)
                    self._holding.add(place)
                else:
                    self._foreign.add(place)
        return records, unreadable

    def remove_files(self) -> None:
        """Remove the files whose outcomes are all in the ledger now."""
        for place in self._holding - self._foreign:
            place.unlink(missing_ok=True)
        self._holding.clear()


def _second_place(path: Path, task: str) -> Path:
    """The same for the same run, in any process of this user."""
    digest = hashlib.sha256(os.fsencode(path.absolute()) + f"\n{task}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ratio-search-unsaved-{os.getuid()}-{digest}.jsonl"


def _lines_of_user(path: Path) -> list[str]:
    """The lines of a file if this user owns it: in the temporary folder there may lie another's of that name."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with open(handle, errors="replace") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            return []
        return file.read().splitlines()
