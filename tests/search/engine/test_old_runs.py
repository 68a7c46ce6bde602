"""Runs of schema 1 that were left unfinished are resumed to their end, and nothing is paid twice.

`old_runs/interrupted_*` are the record and the ledger (as SQL) of a search and of a comparison that were killed after
their third outcome.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from search import api
from search.candidate import Outcome
from search.engine.run_record import read_config
from search.ledger.ledger import Ledger
from search.observer import Observer
from search.strategies.contract import Proposal

OLD_RUNS = Path(__file__).parent / "old_runs"
METHODS = {"search": ["l1"], "compare": ["l1", "kse"]}


def lay_out(results: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """The run's folder and its ledger as they were left; the record as it is read from the file."""
    record: dict[str, Any] = json.loads((OLD_RUNS / f"interrupted_{kind}.json").read_text())
    for search in record["config"].get("searches", [record["config"]]):
        search |= {"ledger": str(results / "ledger.db"), **changes}
    (results / kind).mkdir()
    (results / kind / "run.json").write_text(json.dumps(record))
    with closing(sqlite3.connect(results / "ledger.db")) as database:
        database.executescript((OLD_RUNS / f"interrupted_{kind}.sql").read_text())
    return record


def outcomes_of(results: Path, task: str) -> dict[str, Outcome]:
    with Ledger.open_existing(str(results / "ledger.db"), task) as ledger:
        return {record.key: record.outcome for record in ledger.records()}


class Watch(Observer):
    """Notes which outcomes came from the ledger, and which were paid for."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.from_ledger, self.paid = list[str](), list[str]()

    def on_outcome(self, proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        (self.from_ledger if from_ledger else self.paid).append(proposal.candidate.key(self.task))


@pytest.mark.parametrize(("kind", "finals"), [("search", 2), ("compare", 4)])
def test_an_interrupted_run_of_schema_1_goes_on_to_its_end(tmp_path: Path, kind: str, finals: int) -> None:
    record = lay_out(tmp_path, kind)
    task = record["fingerprint"]
    before, watch = outcomes_of(tmp_path, task), Watch(task)
    assert len(before) == 3
    run = (api.search if kind == "search" else api.compare)(resume=tmp_path / kind, show=watch)
    assert run.complete
    assert set(before) <= set(watch.from_ledger), "all of them are part of the run"
    assert not set(before) & set(watch.paid)
    assert len(watch.paid) == len(set(watch.paid))
    after = outcomes_of(tmp_path, task)
    assert {key: after[key] for key in before} == before
    assert set(after) == {*before, *watch.paid}
    assert list(run.finalists["method"]) == METHODS[kind]
    assert run.finalists["seeds"].sum() == finals

    now = json.loads((tmp_path / kind / "run.json").read_text())
    assert (now["schema"], now["status"], now["created"]) == (2, "finished", record["created"])
    assert now["warm_start"] == record.get("warm_start", []), "what it has found itself is no start of its own"
    again = Watch(task)
    api.compare(resume=tmp_path / kind, show=again)  # one command goes on with either kind
    assert again.paid == []


@pytest.mark.parametrize("kind", ["search", "compare"])
def test_a_setting_that_no_range_allows_any_more_is_one_sentence(tmp_path: Path, kind: str) -> None:
    lay_out(tmp_path, kind, scan_levels=5000)  # which had no upper end
    sentence = r"run.json is not a run of this version \(scan_levels 5000 will not do: it must be at most 1000\)"
    for read in (lambda folder: api.search(resume=folder, show=False), api.open_run):
        with pytest.raises(UserError, match=sentence):
            read(tmp_path / kind)


def test_all_images_of_a_scan_were_none(tmp_path: Path) -> None:
    lay_out(tmp_path, "search", scan_images=None)
    assert read_config(tmp_path / "search").scan_images == 10**9
