"""Every outcome ever measured, durable, in an Optuna storage; the same candidate is never paid for twice.

One study per task and kind of judgement, so that `optuna-dashboard` shows a search as it runs; one trial per outcome;
one JSON attribute per trial holds all there is to know of it, because each attribute costs round trips. A trial's two
values, FLOPs and accuracy, are there for the dashboard alone. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from models.errors import UserError
from search.candidate import Candidate, Outcome
from search.files import atomic_write
from search.ledger.storage import cause, open_storage, read_attributes, readable

SCHEMA = 1
RECORD = "record"  # the attribute of a trial that holds everything
METRIC_NAMES = "study:metric_names"  # where Study.set_metric_names puts them
FACT = "fact:"  # what the names of a task's facts begin with among its study's attributes
OWNER = "ratio-search"  # the attribute of a study that says whose it is
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)


class LedgerError(UserError):
    """An outcome could not be written; it is kept and written with the next one."""


@dataclass(frozen=True)
class Record:
    """A candidate and what became of it."""

    key: str
    candidate: Candidate
    outcome: Outcome
    meta: dict[str, Any] = field(default_factory=dict)
    """What the search wants remembered: strategy, target, ..."""

    def to_json(self) -> str:
        body = {"schema": SCHEMA, "key": self.key, "candidate": self.candidate.model_dump(mode="json"),
                "outcome": self.outcome.model_dump(mode="json"), "meta": self.meta}  # fmt: skip
        return json.dumps(body, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: Any) -> Record:
        """ValueError for anything that this version did not write or cannot read."""
        body = json.loads(text) if isinstance(text, str) else None
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise ValueError("not a record of this version")
        if not isinstance(body.get("key"), str) or not isinstance(body.get("meta"), dict):
            raise ValueError("a record without key or meta")
        candidate, outcome = body.get("candidate"), body.get("outcome")
        return cls(body["key"], Candidate.model_validate(candidate), Outcome.model_validate(outcome), body["meta"])


class Ledger:
    """The outcomes of one task.

    Only the driver of a search writes; several searches may share one file or database. `skipped` counts trials that
    this version cannot read: damaged, foreign, or written by a later one.
    """

    def __init__(self, location: str, task: str, title: str, *, rescue: str | Path | None = None) -> None:
        """Open or create.

        Args:
            location: an SQLite file, or an Optuna storage URL (`postgresql://...`, `mysql://...`, `sqlite:///...`).
            task: the task's fingerprint.
            title: the task in words, `resnet20 on cifar10`.
            rescue: where outcomes go that the storage will not take (disk full); what lies there is taken in now.

        Raises:
            UserError: the location cannot be used.
        """
        self.location, self.task, self.title = location, task, title
        self.rescue = Path(rescue) if rescue is not None else None
        self.skipped = 0
        self._storage = open_storage(location)
        self._studies: dict[str, int] = {}  # name -> id, of this task
        self._read_up_to: dict[str, int] = {}  # study name -> the last trial looked at
        self._index: dict[str, Record] = {}
        self._pending: list[Record] = []
        self._rescued = False  # whether the rescue file holds anything
        self.refresh()
        self._take_in_rescued()

    @classmethod
    def open_existing(cls, location: str, task: str, *, rescue: str | Path | None = None) -> Ledger:
        """Like the constructor, for a task that must be there; its title is read from the ledger."""
        tasks = list_tasks(location)
        if task not in tasks:
            known = ", ".join(f"{title} ({fingerprint})" for fingerprint, title in tasks.items()) or "none"
            raise UserError(f"ledger {readable(location)} has no task {task!r}; tasks there: {known}")
        return cls(location, task, tasks[task], rescue=rescue)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Outcome | None:
        """The outcome of the candidate with this key, failed ones too; None if it was never judged."""
        record = self._index.get(key)
        return record.outcome if record else None

    def records(self) -> list[Record]:
        """All that is known, one record a key, in the order of writing."""
        return list(self._index.values())

    @property
    def pending(self) -> int:
        """How many outcomes wait to be written."""
        return len(self._pending)

    def add(self, candidate: Candidate, outcome: Outcome, meta: Mapping[str, Any] | None = None) -> None:
        """Keep an outcome; it is on disk when this returns. A key that has an outcome keeps it.

        Only an `ok` outcome replaces a failed one.

        Raises:
            LedgerError: the storage refused it; it is known here, kept in `rescue`, and written with the next one.
        """
        record = Record(candidate.key(self.task), candidate, outcome, dict(meta or {}))
        if self._remember(record):
            self._pending.append(record)
        self.flush()

    def remember(self, name: str, fact: Mapping[str, Any]) -> None:
        """Keep something that is known of the task besides outcomes; a later fact of the same name replaces it.

        Raises:
            LedgerError: the storage refused it.
        """
        try:
            self._storage.set_study_user_attr(self._study(""), FACT + name, dict(fact))
        except STORAGE_ERRORS as error:
            raise LedgerError(
                f"could not write to ledger {readable(self.location)} ({cause(error)}); free space or unlock it"
            ) from error

    def facts(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """The facts whose names begin with `prefix`, as they are in the storage now."""
        try:
            attributes = [self._storage.get_study_user_attrs(study) for study in self._studies.values()]
        except (ValueError, *STORAGE_ERRORS) as error:
            raise UserError(f"ledger {readable(self.location)} cannot be read: {cause(error)}") from error
        return {name.removeprefix(FACT): fact for found in attributes for name, fact in found.items()
                if name.startswith(FACT + prefix) and isinstance(fact, dict)}  # fmt: skip

    def flush(self) -> None:
        """Write what could not be written before; LedgerError if it still cannot."""
        while self._pending:
            try:
                self._write(self._pending[0])
            except STORAGE_ERRORS as error:
                where = self._save_rescue()
                raise LedgerError(f"could not write to ledger {readable(self.location)} ({cause(error)}); {where}, "
                                  f"free space or unlock it and go on") from error  # fmt: skip
            del self._pending[0]
        self._drop_rescue()

    def refresh(self) -> set[str]:
        """Take in what other searches added since: the keys of what was news."""
        news = set[str]()
        try:
            self._studies.update(self._find_studies())
            for name, study in self._studies.items():
                for trial, text in read_attributes(self._storage, study, RECORD, after=self._read_up_to.get(name, -1)):
                    news |= self._read(text)
                    self._read_up_to[name] = trial
        except (ValueError, *STORAGE_ERRORS) as error:
            raise UserError(f"ledger {readable(self.location)} cannot be read: {cause(error)}") from error
        return news

    def close(self) -> None:
        """Write what is pending and let go of the storage; LedgerError if something is left in `rescue` only."""
        try:
            self.flush()
        finally:
            self._storage.remove_session()

    def _remember(self, record: Record) -> bool:
        """Whether the record is news."""
        known = self._index.get(record.key)
        if known is not None and (known.outcome.status == "ok" or record.outcome.status == "failed"):
            return False
        self._index[record.key] = record
        return True

    def _read(self, text: str | None) -> set[str]:
        """The key, if the record is news."""
        try:
            record = Record.from_json(text)
        except ValueError:  # pydantic's and json's errors are ValueErrors
            self.skipped += 1
            return set()
        return {record.key} if self._remember(record) else set()

    def _find_studies(self) -> dict[str, int]:
        return {study.study_name: study._study_id for study in self._storage.get_all_studies()
                if _owner(study.user_attrs).get("task") == self.task}  # fmt: skip

    def _study(self, kind: str) -> int:
        """The id of the task's study of one kind of judgement; made if there is none."""
        name = f"{self.title} [{self.task[:8]}]{' / ' + kind if kind else ''}"
        if name not in self._studies:
            self._studies[name] = _create_study(self._storage, name, self.task, self.title)
        return self._studies[name]

    def _write(self, record: Record) -> None:
        study = self._study(_kind(record.candidate))
        self._storage.create_new_trial(study, _trial(record))  # one transaction, tried five times by Optuna

    def _save_rescue(self) -> str:
        """Put all pending records into the rescue file; says what became of them."""
        if self.rescue is None:
            return "the outcome is kept in memory"
        lines = [json.dumps({"task": self.task, "record": record.to_json()}) for record in self._pending]
        try:
            atomic_write(self.rescue, "".join(line + "\n" for line in lines))
            self._rescued = True
        except OSError as error:
            return f"the outcome is kept in memory alone, as {self.rescue} cannot be written either ({error.strerror})"
        return f"the outcome is kept in {self.rescue}"

    def _drop_rescue(self) -> None:
        """Nothing is pending any more."""
        if self._rescued and self.rescue is not None:
            self.rescue.unlink(missing_ok=True)
            self._rescued = False

    def _take_in_rescued(self) -> None:
        if self.rescue is None or not self.rescue.exists():
            return
        self._rescued = True
        for line in self.rescue.read_text().splitlines():
            try:
                body = json.loads(line)
                record = Record.from_json(body["record"])
            except (ValueError, KeyError, TypeError):
                self.skipped += 1
                continue
            if body.get("task") == self.task and self._remember(record):
                self._pending.append(record)
        self.flush()


def list_tasks(location: str) -> dict[str, str]:
    """The tasks in a ledger: fingerprint -> title."""
    storage = open_storage(location, must_exist=True)
    owners = [_owner(study.user_attrs) for study in storage.get_all_studies()]
    storage.remove_session()
    return {owner["task"]: str(owner.get("title", owner["task"])) for owner in owners if "task" in owner}


def _kind(candidate: Candidate) -> str:
    if candidate.judge == "test":
        return "test"
    if candidate.until is not None:
        return "rungs"
    return "sensitivity" if candidate.recipe.epochs == 0 and candidate.images is not None else ""


def _owner(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    owner = attributes.get(OWNER)
    return owner if isinstance(owner, dict) else {}


def _create_study(storage: BaseStorage, name: str, task: str, title: str) -> int:
    """The id of the study called `name`; made if another search has not made it meanwhile."""
    try:
        study = storage.create_new_study([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE], name)
    except DuplicatedStudyError:
        study = storage.get_study_id_from_name(name)  # its maker may have been killed before the next line
    storage.set_study_user_attr(study, OWNER, {"schema": SCHEMA, "task": task, "title": title})
    storage.set_study_system_attr(study, METRIC_NAMES, ["FLOPs", "accuracy"])
    return study


def _trial(record: Record) -> FrozenTrial:
    """The record as a finished trial, for the dashboard's plots; the attribute alone is ever read back."""
    outcome, now = record.outcome, datetime.now()
    judged = outcome.status == "ok" and outcome.flops is not None and outcome.accuracy is not None
    trial = create_trial(
        state=TrialState.COMPLETE if judged else TrialState.FAIL,
        values=[float(outcome.flops or 0), float(outcome.accuracy or 0)] if judged else None,
        user_attrs={RECORD: record.to_json()},
    )
    trial.datetime_start = now - timedelta(seconds=outcome.seconds)
    trial.datetime_complete = now
    return trial
