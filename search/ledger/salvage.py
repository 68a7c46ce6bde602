"""What can still be read of a damaged ledger, and a sound one made of it.

Only SQLite files: a database server repairs its own. Nothing is written into a damaged file, which could make it worse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from search.ledger.cells import CellReader, Row, Value, page_layouts
from search.ledger.record import Record, load_json
from search.ledger.studies import FACT, OWNER, RECORD, create_study, finished_trial, judgement_kind, study_name

# Where the texts of rows begin: keys of attributes with the first bytes of their JSON, states of trials with a year.
_RECORDS = re.compile(re.escape(RECORD.encode()) + rb'(?="\{\\"schema)')
_TRIALS = re.compile(rb"(?:COMPLETE|FAIL)(?=\d{4}-\d\d-\d\d )")
_OWNERS = re.compile(re.escape(OWNER.encode()) + rb'(?=\{")')
_FACTS = re.compile(re.escape(FACT.encode()) + rb'[ !#-z|~]{1,400}?(?=\{[}"])')
_MARK = re.compile(rb'"\{\\"schema\\":')
_LONGEST = 2**16  # bytes of a text that lies in one piece: a page has no more


@dataclass
class Salvage:
    """What was read of a damaged ledger."""

    titles: dict[str, str] = field(default_factory=dict)
    """Task -> title."""
    records: dict[str, list[Record]] = field(default_factory=dict)
    """Task -> its records in the order of writing."""
    facts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Task -> name, with the prefix of facts -> fact."""
    unassigned: int = 0
    """Outcomes that can be read, but not of which task they are."""
    lost: int = 0
    """Outcomes at least that were there and cannot be read."""

    @property
    def count(self) -> int:
        return sum(len(records) for records in self.records.values())


def read_salvage(path: Path, tasks: Iterable[tuple[str, str]] = ()) -> Salvage:
    """Everything that can be read of the file at `path`.

    Args:
        tasks: fingerprints and titles that are known from elsewhere; where the file's own names are damaged, a record
            is known by its key, which is a hash of its task too.
    """
    content = path.read_bytes()
    layouts = page_layouts(content)  # the header may be what is damaged
    attempts = [_read(content, CellReader(content, size, reserved), tasks) for size, reserved in layouts]
    return max(attempts, key=lambda attempt: (attempt.count, attempt.unassigned, -attempt.lost))


def rebuild(salvage: Salvage, storage: RDBStorage) -> None:
    """Write what was read into a new storage."""
    for task, title in salvage.titles.items():
        studies: dict[str, int] = {}
        records = salvage.records.get(task, [])
        for kind in dict.fromkeys(["", *(judgement_kind(record.candidate) for record in records)]):
            studies[kind] = create_study(storage, study_name(task, title, kind), task, title)
        for record in records:
            storage.create_new_trial(studies[judgement_kind(record.candidate)], finished_trial(record))
        for name, fact in salvage.facts.get(task, {}).items():
            storage.set_study_user_attr(studies[""], name, fact)


def _read(content: bytes, reader: CellReader, tasks: Iterable[tuple[str, str]]) -> Salvage:
    titles, studies = dict(tasks), dict[int, str]()
    for _, row in reader.find(_OWNERS, _is_attribute):
        owner = _object(row)
        if row is not None and isinstance(owner.get("task"), str):
            studies[_number(row.values[1])] = owner["task"]
            titles[owner["task"]] = str(owner.get("title", owner["task"]))
    found = Salvage(titles=titles)
    trials = {row.rowid: _number(row.values[2]) for _, row in reader.find(_TRIALS, _is_trial) if row is not None}
    unread = _read_records(content, reader, found, {trial: studies.get(study) for trial, study in trials.items()})
    found.lost = max(unread, len(trials) - found.count - found.unassigned, 0)
    for _, row in reader.find(_FACTS, _is_attribute):
        if row is None or not (fact := _object(row)):
            continue
        only = next(iter(titles)) if len(titles) == 1 else None
        if (task := studies.get(_number(row.values[1]), only)) is not None:
            found.facts.setdefault(task, {})[_text(row.values[2])] = fact
    return found


def _read_records(content: bytes, reader: CellReader, found: Salvage, trials: dict[int, str | None]) -> int:
    """Put all records into `found`; how many could not be read."""
    rows: list[tuple[int, int, str, str | None]] = []  # (row id, position, text, task)
    spots = set[int]()
    for position, row in reader.find(_RECORDS, _is_attribute):
        spots.add(position + len(RECORD))
        if row is not None:
            rows.append((row.rowid, position, _json_text(_text(row.values[3])), trials.get(_number(row.values[1]))))
        else:
            rows.append((2**62, position, _text_at(content, position + len(RECORD)), None))
    for match in _MARK.finditer(content):
        if match.start() not in spots:  # what stands before it is damaged
            rows.append((2**62, match.start(), _text_at(content, match.start()), None))
    unread, seen = 0, set[str]()
    for _, _, text, task in sorted(rows):
        try:
            record = Record.from_json(text)
        except ValueError:  # pydantic's and json's errors are ValueErrors
            unread += 1
            continue
        if text in seen:  # a page that SQLite has moved may be there twice
            continue
        seen.add(text)
        task = next((each for each in found.titles if record.candidate.key(each) == record.key), task)
        if task is None:
            found.unassigned += 1
        else:
            found.records.setdefault(task, []).append(record)
    return unread


def _is_attribute(values: tuple[Value, ...]) -> bool:
    return (len(values) == 4 and values[0] is None and isinstance(values[1], int) and isinstance(values[2], bytes)
            and isinstance(values[3], bytes))  # fmt: skip


def _is_trial(values: tuple[Value, ...]) -> bool:
    return (len(values) == 6 and values[0] is None and isinstance(values[1], int) and isinstance(values[2], int)
            and isinstance(values[3], bytes))  # fmt: skip


def _number(value: Value) -> int:
    return value if isinstance(value, int) else -1


def _text(value: Value) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _object(row: Row | None) -> dict[str, Any]:
    """The JSON object of an attribute; empty if it is none."""
    try:
        value = load_json(_text(row.values[3])) if row is not None else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _json_text(text: str) -> str:
    """The text in a JSON string; empty if it is none."""
    try:
        value = load_json(text)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _text_at(content: bytes, position: int) -> str:
    """The text in a JSON string that begins there and lies in one piece."""
    try:
        value, _ = json.JSONDecoder().raw_decode(content[position : position + _LONGEST].decode("latin-1"))
    except (ValueError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""
