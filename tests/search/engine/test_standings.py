"""Which finalist a method and strategy chose, what finding it took, and the dense network beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_fakes import DENSE, TASK, add_row, filled, final

from search.allocation.targets import parse_target
from search.candidate import failed_outcome
from search.engine.standings import Standing, finalist_standings, read_dense, read_standings, seedless_key, store_dense
from search.ledger.ledger import Ledger
from search.results.dense import Dense
from search.strategies.contract import Proposal


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def test_targets_are_kept_as_the_text_that_was_asked_for(path: str) -> None:
    """Ledgers of earlier versions hold the same text; a measure that a later version knows makes a row unreadable."""
    asked = {"target": "flops 0.5 + latency 5ms", "targets": ["0.5"]}
    text = {"method": "l1", "strategy": "a", "target_flops": 500, **asked}
    standing = Standing.model_validate(text)
    assert (standing.target, standing.targets) == (parse_target("latency 5ms + flops 0.5"), (parse_target("0.5"),))
    assert {name: standing.model_dump(mode="json")[name] for name in text} == text
    with Ledger(path, TASK, "a task") as ledger:
        ledger.store_fact("row:one", text)
        ledger.store_fact("row:two", {**text, "target": "watts 0.5"})
        assert (read_standings(ledger), ledger.skipped) == ([standing], 1)


def test_a_reason_goes_once_there_is_an_answer(path: str) -> None:
    with filled(path) as ledger:
        assert any(standing.reason for standing in read_standings(ledger))
        add_row(ledger, "kse", "0.3", (0.9, 0.91))
        assert not any(standing.reason for standing in read_standings(ledger))


def test_the_dense_network_keeps_what_was_measured_once(path: str) -> None:
    with filled(path) as ledger:
        store_dense(ledger, Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, None))
        assert read_dense(ledger) == Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, DENSE.test_score)


def test_search_cost_counts_what_the_row_alone_took() -> None:
    def proposal(number: int, strategy: str, target: str | None, stage: str = "search") -> Proposal:
        return Proposal(final("l1", number / 100, judge="search"), stage, strategy, target and parse_target(target))  # type: ignore[arg-type]

    asked = [proposal(1, "a", None, "scan"), proposal(2, "a", "0.5"), proposal(2, "a", "0.5"), proposal(3, "a", "0.3"),
             proposal(4, "b", "0.5")]  # fmt: skip
    seen = [(each, failed_outcome("x", seconds=2.0)) for each in asked]
    finals = [Proposal(final("l1", 0.02, seed), "final", "a", parse_target("0.5")) for seed in range(3)]
    (standing,) = finalist_standings(seen, finals, {parse_target("0.5"): {"flops": 500_000}}, task=TASK, run="r")
    assert (standing.searched, standing.search_seconds) == (2, 4.0)
    assert standing.final == seedless_key(final("l1", 0.02), TASK)
