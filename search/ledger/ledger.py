"""Every outcome ever measured, durable, in an Optuna storage; the same candidate is never paid for twice.

One study per task and kind of judgement, so that `optuna-dashboard` shows a search as it runs; one trial per outcome;
one JSON attribute per trial holds all there is to know of it, because each attribute costs round trips. A trial's two
values, FLOPs and accuracy, are there for the dashboard alone. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from models.errors import UserError
from models.tasks.metric import ACCURACY, Metric
from search.candidate import Candidate, Outcome
from search.ledger.location import public_location
from search.ledger.record import Record
from search.ledger.rescue import Rescue
from search.ledger.storage import open_for_reading, open_for_writing, read_attributes, read_studies, root_cause
from search.ledger.studies import FACT, RECORD, create_study, finished_trial, judgement_kind, study_name, study_owner
from search.ledger.waiting import tell_long_wait

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)


class LedgerError(UserError):
    """An outcome could not be written; it is kept and written with the next one."""

    def __init__(self, message: str, *, kept: bool = True) -> None:
        """`kept`: whether it outlives this process."""
        super().__init__(message)
        self.kept = kept


class Ledger:
    """The outcomes of one task.

    Only the driver of a search writes; several searches may share one file or database. `skipped` counts outcomes that
    this version cannot read: damaged, foreign, or written by a later one.
    """

    def __init__(
        self,
        location: str,
        task: str,
        title: str,
        metric: Metric = ACCURACY,
        *,
        rescue: str | Path | None = None,
        read_only: bool = False,
    ) -> None:
        """Open or create.

        Args:
            location: an SQLite file, or an Optuna storage URL (`postgresql://...`, `mysql://...`, `sqlite:///...`).
            task: the task's fingerprint.
            title: the task in words, `resnet20 on cifar10`.
            metric: that the task is judged by, for Optuna's dashboard.
            rescue: where outcomes go that the storage will not take (disk full); what lies there is taken in now.
            read_only: it must be there and is left as it is.

        Raises:
            UserError: the location cannot be used.
        """
        self.location, self.task, self.title, self._metric = public_location(location), task, title, metric
        self._opened = open_for_reading(location) if read_only else open_for_writing(location, [(task, title)])
        self.skipped = self._opened.damage.lost
        self._rescue = Rescue(Path(rescue) if rescue is not None else None, task)
        self._studies: dict[str, int] = {}  # name -> id, of this task
        self._read_up_to: dict[str, int] = {}  # study name -> the last trial looked at
        self._index: dict[str, Record] = {}
        self._pending: list[Record] = []
        self.refresh()
        self._load_rescued()

    @classmethod
    def open_existing(cls, location: str, task: str) -> Ledger:
        """To read a task that must be there; its title is read from the ledger."""
        tasks = list_tasks(location)
        if task not in tasks:
            names = ", ".join(f"{title} ({fingerprint})" for fingerprint, title in tasks.items()) or "none"
            raise UserError(f"ledger {public_location(location)} has no task {task!r}; tasks there: {names}")
        return cls(location, task, tasks[task], read_only=True)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Outcome | None:
        """The outcome of the candidate with this key, a failed one too; None if it was never judged."""
        record = self._index.get(key)
        return record.outcome if record else None

    def records(self) -> list[Record]:
        """The last record of every key, in the order in which the keys were first written."""
        return list(self._index.values())

    @property
    def notices(self) -> list[str]:
        """What a user must know of the ledger's state, a sentence each."""
        damage = self._opened.damage
        sentences = [] if damage.notice is None else [damage.notice]
        if (unreadable := self.skipped - damage.lost) > 0:
            sentences.append(
                f"ledger {self.location}: records that cannot be read (damaged, or not of this version) are "
                f"left out, {unreadable} in all"
            )
        return sentences

    def add(self, candidate: Candidate, outcome: Outcome, meta: Mapping[str, Any] | None = None) -> None:
        """Keep an outcome; it is on disk when this returns. A key that has an outcome keeps it.

        Only an `ok` outcome replaces a failed one.

        Raises:
            LedgerError: the storage refused it; it is known here, kept in `rescue`, and written with the next one.
        """
        record = Record(candidate.key(self.task), candidate, outcome, dict(meta or {}))
        if self._index_record(record):
            self._pending.append(record)
        self.flush()

    def store_fact(self, name: str, fact: Mapping[str, Any]) -> None:
        """Keep a fact of the task that is no outcome; a later one of the same name replaces it.

        Raises:
            LedgerError: the storage refused it.
        """
        try:
            with tell_long_wait(self.location):
                self._reopen_if_replaced()
                self._storage.set_study_user_attr(self._study_id(""), FACT + name, dict(fact))
        except STORAGE_ERRORS as error:
            raise LedgerError(
                f"could not write to ledger {self.location} ({root_cause(error)}); free space or unlock it"
            ) from error

    def facts(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """The facts whose names begin with `prefix`, as they are in the storage now."""
        try:
            studies = read_studies(self._opened.engine)
        except STORAGE_ERRORS as error:
            raise UserError(f"ledger {self.location} cannot be read: {root_cause(error)}") from error
        return {
            name.removeprefix(FACT): fact
            for _, attributes in studies.values()
            if study_owner(attributes).get("task") == self.task
            for name, fact in attributes.items()
            if name.startswith(FACT + prefix) and isinstance(fact, dict)
        }

    def flush(self) -> None:
        """Write the outcomes that the storage refused before; LedgerError if it still does."""
        while self._pending:
            try:
                with tell_long_wait(self.location):
                    self._write_record(self._pending[0])
            except STORAGE_ERRORS as error:
                where, kept = self._rescue.save_records(self._pending)
                raise LedgerError(f"could not write to ledger {self.location} ({root_cause(error)}); {where}, "
                                  f"free space or unlock it and go on", kept=kept) from error  # fmt: skip
            del self._pending[0]
        self._rescue.remove_files()

    def refresh(self) -> set[str]:
        """Read the outcomes that other searches added since; the keys that had none, or a failed one, until now."""
        changed = set[str]()
        try:
            with tell_long_wait(self.location):
                self._reopen_if_replaced()
                self._studies.update(self._read_own_studies())
                for name, study in self._studies.items():
                    last = self._read_up_to.get(name, -1)
                    for trial, text in read_attributes(self._opened.engine, study, RECORD, after=last):
                        changed |= self._index_text(text)
                        self._read_up_to[name] = trial
        except STORAGE_ERRORS as error:
            raise UserError(f"ledger {self.location} cannot be read: {root_cause(error)}") from error
        return changed

    def close(self) -> None:
        """Write the outcomes that are left and close the storage; LedgerError if one is left in `rescue` only."""
        try:
            self.flush()
        finally:
            self._opened.close()

    @property
    def _storage(self) -> RDBStorage:
        assert self._opened.storage is not None, "opened to be read"
        return self._opened.storage

    def _reopen_if_replaced(self) -> None:
        """Open the file anew if another search has repaired it: the one that is open has another name by now."""
        if not self._opened.moved:
            return
        assert self._opened.path is not None
        if not self._opened.path.exists():
            raise OSError(errno.ENOENT, "it is not there any more")
        self._opened.close()
        self._opened = open_for_writing(self.location, [(self.task, self.title)])
        self._studies, self._read_up_to, self.skipped = {}, {}, self._opened.damage.lost

    def _index_record(self, record: Record) -> bool:
        """Put the record into the index; false if its key has an outcome that it may not replace."""
        earlier = self._index.get(record.key)
        if earlier is not None and (earlier.outcome.status == "ok" or record.outcome.status == "failed"):
            return False
        self._index[record.key] = record
        return True

    def _index_text(self, text: Any) -> set[str]:
        """Put the record that a text holds into the index; its key, if that changed the index."""
        try:
            record = Record.from_json(text)
        except ValueError:  # pydantic's and json's errors are ValueErrors
            self.skipped += 1
            return set()
        return {record.key} if self._index_record(record) else set()

    def _read_own_studies(self) -> dict[str, int]:
        return {name: study for study, (name, attributes) in read_studies(self._opened.engine).items()
                if study_owner(attributes).get("task") == self.task}  # fmt: skip

    def _study_id(self, kind: str) -> int:
        """The id of the task's study of one kind of judgement; made if there is none."""
        name = study_name(self.task, self.title, kind)
        if name not in self._studies:
            self._studies[name] = create_study(self._storage, name, self.task, self.title, self._metric)
        return self._studies[name]

    def _write_record(self, record: Record) -> None:
        self._reopen_if_replaced()
        study = self._study_id(judgement_kind(record.candidate))
        self._storage.create_new_trial(study, finished_trial(record))  # one transaction, tried five times by Optuna

    def _load_rescued(self) -> None:
        records, unreadable = self._rescue.load_records()
        self.skipped += unreadable
        self._pending += [record for record in records if self._index_record(record)]
        if records:
            self.flush()


def list_tasks(location: str) -> dict[str, str]:
    """The tasks in a ledger: fingerprint -> title."""
    opened = open_for_reading(location)
    try:
        owners = [study_owner(attributes) for _, attributes in read_studies(opened.engine).values()]
    except STORAGE_ERRORS as error:
        raise UserError(f"ledger {public_location(location)} cannot be read: {root_cause(error)}") from error
    finally:
        opened.close()
    return {owner["task"]: str(owner.get("title", owner["task"])) for owner in owners if owner}
