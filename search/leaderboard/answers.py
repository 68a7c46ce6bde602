"""The answers of a task: what methods and strategies chose for targets, with what their finalists reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.engine.standings import Standing, read_standings, seedless_key
from search.ledger.ledger import Ledger
from search.ledger.record import Record


@dataclass(frozen=True)
class Answer:
    """A standing with the test outcomes of its finalist, by seed."""

    standing: Standing
    tested: Mapping[int, Record]

    @property
    def scored_records(self) -> list[Record]:
        """The records of the seeds that did not fail."""
        return [record for _, record in sorted(self.tested.items()) if record.outcome.score is not None]


def answers_of(ledger: Ledger) -> list[Answer]:
    """Every standing of the task with its test results."""
    tested: dict[str, dict[int, Record]] = {}
    for record in ledger.records():
        if record.candidate.judge == "test":
            tested.setdefault(seedless_key(record.candidate, ledger.task), {})[record.candidate.seed] = record
    return [Answer(standing, tested.get(standing.final or "", {})) for standing in read_standings(ledger)]
