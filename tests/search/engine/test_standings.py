"""Which finalist a method and strategy chose, what finding it took, and the dense network beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_fakes import DENSE, TASK, add_row, filled, final

from search.allocation.targets import parse_target
from search.candidate import failed_outcome
from search.engine.standings import finalist_standings, read_dense, read_standings, seedless_key, store_dense
from search.results.tables import Dense
from search.strategies.contract import Proposal


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def test_a_reason_goes_once_there_is_an_answer(path: str) -> None:
    with filled(path) as ledger:
        assert any(standing.reason for standing in read_standings(ledger))
        add_row(ledger, "kse", "0.3", (0.9, 0.91))
        assert not any(standing.reason for standing in read_standings(ledger))


def test_the_dense_network_keeps_what_was_measured_once(path: str) -> None:
    with filled(path) as ledger:
        store_dense(ledger, Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, None))
        assert read_dense(ledger) == Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, DENSE.test_accuracy)


def test_search_cost_counts_what_the_row_alone_took() -> None:
    def proposal(number: int, strategy: str, target: str | None, stage: str = "search") -> Proposal:
        return Proposal(final("l1", number / 100, judge="search"), stage, strategy, target and parse_target(target))  # type: ignore[arg-type]

    asked = [proposal(1, "a", None, "scan"), proposal(2, "a", "0.5"), proposal(2, "a", "0.5"), proposal(3, "a", "0.3"),
             proposal(4, "b", "0.5")]  # fmt: skip
    seen = [(each, failed_outcome("x", seconds=2.0)) for each in asked]
    finals = [Proposal(final("l1", 0.02, seed), "final", "a", parse_target("0.5")) for seed in range(3)]
    (standing,) = finalist_standings(seen, finals, {"0.5": {"flops": 500_000}}, task=TASK, run="r")
    assert (standing.searched, standing.search_seconds) == (2, 4.0)
    assert standing.final == seedless_key(final("l1", 0.02), TASK)
