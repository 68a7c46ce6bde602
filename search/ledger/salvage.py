"""`Salvage`: the records and facts that can still be read of a damaged ledger; and a sound ledger made of them.

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

from models.tasks.metric import ACCURACY
from search.ledger.cells import CellReader, Row, Value, page_layouts
from search.ledger.record import Record, load_json
from search.ledger.studies import FACT, OWNER, RECORD, create_study, finished_trial, judgement_kind, study_name

# Where the texts of rows begin: keys of attributes with the first bytes of their JSON, states of trials with a year.
_RECORDS = re.compile(re.escape(RECORD.encode()) + rb'(?="\{\\"schema)')
_TRIALS = re.compile(rb"(?:COMPLETE|FAIL)(?=\d{4}-\d\d-\d\d )")
_OWNERS = re.compile(re.escape(OWNER.encode()) + rb'(?=\{")')
_FACTS = re.compile(re.escape(FACT.encode()) + rb'[ !#-z|~]{1,400}?(?=\{[}"])')
_MARK = re.compile(rb'"\{\\"schema\\":')
_MAX_TEXT = 2**16  # bytes of a text that lies in one piece: a page has no more


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

    @property
    def left_out(self) -> int:
        """Outcomes that no reader sees: lost, or of no task that is known."""
        return self.lost + self.unassigned


def read_salvage(path: Path, tasks: Iterable[tuple[str, str]] = ()) -> Salvage:
    """Everything that can be read of the file at `path`.

    Args:
        tasks: fingerprints and titles that are known from elsewhere; where the file's own names are damaged, a record
            is known by its key, which is a hash of its task too.
    """
    content = path.read_bytes()
    layouts = page_layouts(content)  # the header may be what is damaged
    attempts = [_read_layout(content, CellReader(content, size, reserved), tasks) for size, reserved in layouts]
    return max(attempts, key=lambda attempt: (attempt.count, attempt.unassigned, -attempt.lost))


def rebuild_storage(salvage: Salvage, storage: RDBStorage) -> None:
    """Write what was read into a new storage."""
    for task, title in salvage.titles.items():
        studies: dict[str, int] = {}
        records = salvage.records.get(task, [])
        metric = next((record.outcome.metric for record in records if record.outcome.status == "ok"), ACCURACY)
        for kind in dict.fromkeys(["", *(judgement_kind(record.candidate) for record in records)]):
            studies[kind] = create_study(storage, study_name(task, title, kind), task, title, metric)
        for record in records:
            storage.create_new_trial(studies[judgement_kind(record.candidate)], finished_trial(record))
        for name, fact in salvage.facts.get(task, {}).items():
            storage.set_study_user_attr(studies[""], name, fact)


def _read_layout(content: bytes, reader: CellReader, tasks: Iterable[tuple[str, str]]) -> Salvage:
    titles, studies = dict(tasks), dict[int, str]()
    for _, row in reader.find_rows(_OWNERS, _is_attribute):
        owner = _json_object(row)
        if row is not None and isinstance(owner.get("task"), str):
            studies[_as_number(row.values[1])] = owner["task"]
            titles[owner["task"]] = str(owner.get("title", owner["task"]))
    salvage = Salvage(titles=titles)
    trials = {
        row.rowid: _as_number(row.values[2]) for _, row in reader.find_rows(_TRIALS, _is_trial) if row is not None
    }
    unread = _read_records(content, reader, salvage, {trial: studies.get(study) for trial, study in trials.items()})
    salvage.lost = max(unread, len(trials) - salvage.count - salvage.unassigned, 0)
    for _, row in reader.find_rows(_FACTS, _is_attribute):
        if row is None or not (fact := _json_object(row)):
            continue
        only = next(iter(titles)) if len(titles) == 1 else None
        if (task := studies.get(_as_number(row.values[1]), only)) is not None:
            salvage.facts.setdefault(task, {})[_as_text(row.values[2])] = fact
    return salvage


def _read_records(content: bytes, reader: CellReader, salvage: Salvage, trials: dict[int, str | None]) -> int:
    """Put all records into `salvage`; how many could not be read."""
    rows: list[tuple[int, int, str, str | None]] = []  # (row id, position, text, task)
    spots = set[int]()
    for position, row in reader.find_rows(_RECORDS, _is_attribute):
        spots.add(position + len(RECORD))
        if row is not None:
            rows.append(
                (row.rowid, position, _inner_text(_as_text(row.values[3])), trials.get(_as_number(row.values[1])))
            )
        else:
            rows.append((2**62, position, _inner_text_at(content, position + len(RECORD)), None))
    for match in _MARK.finditer(content):
        if match.start() not in spots:  # what stands before it is damaged
            rows.append((2**62, match.start(), _inner_text_at(content, match.start()), None))
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
        task = next((name for name in salvage.titles if record.candidate.key(name) == record.key), task)
        if task is None:
            salvage.unassigned += 1
        else:
            salvage.records.setdefault(task, []).append(record)
    return unread


def _is_attribute(values: tuple[Value, ...]) -> bool:
    return (len(values) == 4 and values[0] is None and isinstance(values[1], int) and isinstance(values[2], bytes)
            and isinstance(values[3], bytes))  # fmt: skip


def _is_trial(values: tuple[Value, ...]) -> bool:
    return (len(values) == 6 and values[0] is None and isinstance(values[1], int) and isinstance(values[2], int)
            and isinstance(values[3], bytes))  # fmt: skip


def _as_number(value: Value) -> int:
    return value if isinstance(value, int) else -1


def _as_text(value: Value) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _json_object(row: Row | None) -> dict[str, Any]:
    """The JSON object of an attribute; empty if it is none."""
    try:
        value = load_json(_as_text(row.values[3])) if row is not None else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _inner_text(text: str) -> str:
    """The text in a JSON string; empty if it is none."""
    try:
        value = load_json(text)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _inner_text_at(content: bytes, position: int) -> str:
    """The text in a JSON string that begins there and lies in one piece."""
    try:
        value, _ = json.JSONDecoder().raw_decode(content[position : position + _MAX_TEXT].decode("latin-1"))
    except (ValueError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""
