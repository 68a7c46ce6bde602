"""The ledger: what was added is there for the next process, whatever happened in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from ledger_samples import TASK, TITLE, candidate, outcome

from models.errors import UserError
from search.candidate import failed_outcome
from search.ledger import storage as storage_module
from search.ledger.ledger import Ledger, list_tasks
from search.ledger.location import public_location
from search.ledger.record import Record
from search.recipe import ZERO_SHOT


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "new" / "ledger.db")


def test_what_was_added_is_there_after_reopening(path: str) -> None:
    ledger = Ledger(path, TASK, TITLE)
    sensitivity = candidate(1, recipe=ZERO_SHOT, images=500)
    final = candidate(2, judge="test")
    bad = candidate(3)
    ledger.add(candidate(), outcome(), {"strategy": "tpe", "target": 0.5})
    ledger.add(sensitivity, outcome(1))
    ledger.add(final, outcome(2))
    ledger.add(bad, failed_outcome("ran out of memory"))
    for known in (ledger, Ledger(path, TASK, TITLE), Ledger.open_existing(path, TASK)):
        assert known.get(candidate().key(TASK)) == outcome()
        assert known.get(sensitivity.key(TASK)) == outcome(1)
        assert known.get(bad.key(TASK)) == failed_outcome("ran out of memory")
        assert known.get(candidate(4).key(TASK)) is None
        records = {record.key: record for record in known.records()}
        assert len(records) == 4
        assert records[candidate().key(TASK)].meta == {"strategy": "tpe", "target": 0.5}
        assert records[final.key(TASK)].candidate == final
        assert known.skipped == 0


def test_a_record_survives_json() -> None:
    record = Record("k", candidate(learned_target=0.3), outcome(), {"x": 1})
    assert Record.from_json(record.to_json()) == record


def test_optuna_and_its_dashboard_see_a_search(path: str) -> None:
    ledger = Ledger(path, TASK, TITLE)
    ledger.add(candidate(), outcome())
    ledger.add(candidate(1), failed_outcome("diverged"))
    ledger.add(candidate(2, recipe=ZERO_SHOT, images=500), outcome(2))
    ledger.add(candidate(3, judge="test"), outcome(3))
    url = f"sqlite:///{path}"
    studies = {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}
    main = f"{TITLE} [01234567]"
    assert set(studies) == {main, f"{main} / sensitivity", f"{main} / test"}
    assert studies[main].metric_names == ["FLOPs", "accuracy"]
    assert [direction.name for direction in studies[main].directions] == ["MINIMIZE", "MAXIMIZE"]
    good, bad = studies[main].trials
    assert (good.state.name, good.values) == ("COMPLETE", [1e6, 0.5])
    assert good.duration is not None
    assert good.duration.total_seconds() == pytest.approx(3.5)
    assert (bad.state.name, bad.values) == ("FAIL", None)
    assert "diverged" in bad.user_attrs["record"]
    assert len(studies[main].best_trials) == 1


def test_a_key_keeps_its_outcome_and_only_success_replaces_failure(path: str) -> None:
    ledger = Ledger(path, TASK, TITLE)
    key = candidate().key(TASK)
    first, second, third = (failed_outcome(reason) for reason in "abc")
    for new, expected in ((first, first), (second, first), (outcome(1), outcome(1)), (outcome(2), outcome(1)),
                          (third, outcome(1))):  # fmt: skip
        ledger.add(candidate(), new)
        assert ledger.get(key) == expected
        assert Ledger(path, TASK, TITLE).get(key) == expected
    assert len(ledger.records()) == 1


def test_tasks_share_a_file_and_know_nothing_of_each_other(path: str) -> None:
    first, second = Ledger(path, TASK, TITLE), Ledger(path, "ffff", "vgg16 on svhn")
    first.add(candidate(), outcome(1))
    second.add(candidate(), outcome(2))
    assert [record.outcome for record in Ledger(path, TASK, TITLE).records()] == [outcome(1)]
    assert [record.outcome for record in Ledger(path, "ffff", "renamed").records()] == [outcome(2)]
    assert list_tasks(path) == {TASK: TITLE, "ffff": "vgg16 on svhn"}


def test_refresh_shows_what_another_search_added(path: str) -> None:
    mine, other = Ledger(path, TASK, TITLE), Ledger(path, TASK, TITLE)
    mine.add(candidate(1), outcome(1))
    other.add(candidate(2), outcome(2))
    mine.add(candidate(3), outcome(3))
    other.add(candidate(4, judge="test"), outcome(4))
    assert mine.get(candidate(2).key(TASK)) is None
    mine.refresh()
    other.refresh()
    for ledger in (mine, other):
        assert sorted(record.outcome.flops or 0 for record in ledger.records()) == [10**6 + i for i in (1, 2, 3, 4)]


# Damage


def damage(path: str, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def newer(record: str) -> str:
    body = json.loads(json.loads(record))
    return json.dumps(json.dumps(body | {"schema": 2}))


def unknown_field(record: str) -> str:
    body = json.loads(json.loads(record))
    body["outcome"]["surprise"] = 1
    return json.dumps(json.dumps(body))


@pytest.mark.parametrize(
    "spoil",
    [lambda _: "{not json", lambda _: "17", lambda _: '"[]"', lambda record: record[: len(record) // 2] + '"', newer,
     unknown_field],
)  # fmt: skip
def test_a_damaged_or_newer_record_is_skipped_and_counted(path: str, spoil: Any) -> None:
    ledger = Ledger(path, TASK, TITLE)
    ledger.add(candidate(1), outcome(1))
    ledger.add(candidate(2), outcome(2))
    connection = sqlite3.connect(path)
    row, text = connection.execute("SELECT rowid, value_json FROM trial_user_attributes ORDER BY rowid").fetchone()
    connection.close()
    damage(path, "UPDATE trial_user_attributes SET value_json = ? WHERE rowid = ?", spoil(text), row)
    again = Ledger(path, TASK, TITLE)
    assert [record.outcome for record in again.records()] == [outcome(2)]
    assert again.skipped == 1
    again.add(candidate(1), outcome(1))  # paid for anew
    assert len(Ledger(path, TASK, TITLE).records()) == 2


def test_a_foreign_trial_in_our_study_is_skipped_and_counted(path: str) -> None:
    Ledger(path, TASK, TITLE).add(candidate(), outcome())
    url = f"sqlite:///{path}"
    (name,) = optuna.get_all_study_names(url)
    optuna.load_study(study_name=name, storage=url).add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    again = Ledger(path, TASK, TITLE)
    assert (len(again.records()), again.skipped) == (1, 1)


def test_nothing_is_unpickled(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    Ledger(path, TASK, TITLE).add(candidate(), outcome())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert len(Ledger(path, TASK, TITLE).records()) == 1


# Locations


def test_locations_that_cannot_be_used(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all")
    torn = tmp_path / "torn.db"
    Ledger(str(torn), TASK, TITLE).close()
    torn.write_bytes(torn.read_bytes()[:100] + os.urandom(4000))
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    cases = {
        str(text): "is not an SQLite database",
        str(torn): "cannot be read|cannot be used",
        str(other): "another program's database",
        str(tmp_path): "is a folder",
        str(text / "ledger.db"): "cannot be opened",
        "sqlite://": "would be lost",
        "oracle9://host/db": "scheme 'oracle9' are not supported",
        "://": "cannot read the ledger URL",
    }
    for location, message in cases.items():
        with pytest.raises(UserError, match=message):
            Ledger(location, TASK, TITLE)
    assert text.read_text() == "not a database at all"
    assert sqlite3.connect(other).execute("SELECT name FROM sqlite_master").fetchall() == [("birds",)]


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("postgresql://u:secret@h/db", r"psycopg\[binary\]"),
        ("postgresql+psycopg2://u:secret@h/db", "psycopg2-binary"),
        ("mysql://u:secret@h/db", "mysqlclient"),
        ("mysql+pymysql://u:secret@h/db", "pymysql"),
    ],
)
def test_a_missing_driver_is_named(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg", "psycopg2", "MySQLdb", "pymysql"):
        monkeypatch.setitem(sys.modules, module, None)  # even where it is installed
    with pytest.raises(UserError, match=f"pip install '{package}'") as caught:
        Ledger(url, TASK, TITLE)
    assert "secret" not in str(caught.value)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser, who may run this, has every permission
    with pytest.raises(UserError, match=r"\(Permission denied\); choose a place that can be written to"):
        Ledger(str(tmp_path / "ledger.db"), TASK, TITLE)


def test_what_must_exist(path: str) -> None:
    with pytest.raises(UserError, match="there is no ledger"):
        list_tasks(path)
    assert not Path(path).exists()
    Ledger(path, TASK, TITLE).add(candidate(), outcome())
    with pytest.raises(UserError, match=r"no task 'beef'.*resnet20 on cifar10"):
        Ledger.open_existing(path, "beef")


def test_a_url_opens_the_same_file(path: str) -> None:
    Ledger(path, TASK, TITLE).add(candidate(), outcome())
    assert len(Ledger(f"sqlite:///{path}", TASK, TITLE).records()) == 1
    assert public_location("postgresql://u:secret@h/db") == "postgresql://u@h/db"


# Two searches at once


def add_some(path: str, first: int, count: int) -> None:
    ledger = Ledger(path, TASK, TITLE)
    for number in range(first, first + count):
        ledger.add(candidate(number), outcome(number))
    ledger.close()


def test_two_processes_start_and_write_at_once(path: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_some, args=(path, first, 40)) for first in (0, 40, 60)]  # 20 in common
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    ledger = Ledger(path, TASK, TITLE)
    assert sorted(record.candidate.seed for record in ledger.records()) == list(range(100))
    assert ledger.skipped == 0


def test_half_a_study_of_a_killed_search_is_completed(path: str) -> None:
    name = f"{TITLE} [{TASK[:8]}]"
    storage = storage_module.open_storage(path)
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE], name)
    Ledger(path, TASK, TITLE).add(candidate(), outcome())
    assert len(Ledger(path, TASK, TITLE).records()) == 1
