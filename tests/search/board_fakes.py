"""Ledgers with made-up results, for the tests of leaderboards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search import api
from search.candidate import Candidate, Outcome, failed_outcome
from search.engine.standings import Standing, seedless_key, store_dense, store_standings
from search.ledger.ledger import Ledger
from search.recipe import Recipe
from search.results.dense import Dense

DENSE = Dense(flops=1_000_000, params=40_000, bytes=160_000, search_score=0.99, test_score=0.95)
IMAGES = 10_000
TASK = "0123456789abcdef"


def final(method: str, kept: float, seed: int = 0, **changes: Any) -> Candidate:
    """A finalist; `kept` tells allocations apart."""
    fields = {"method": method, "allocation": {"conv": {"ratio": 1 - kept}}, "seed": seed, "judge": "test",
              "recipe": Recipe(epochs=3)}  # fmt: skip
    return Candidate(**(fields | changes))


def judged(accuracy: float, kept: float) -> Outcome:
    return Outcome(status="ok", accuracy=accuracy, loss=1 - accuracy, images=IMAGES, flops=int(kept * DENSE.flops),
                   params=20_000, bytes=64_000, epochs=3, seconds=10, device="cpu")  # fmt: skip


def add_row(
    ledger: Ledger,
    method: str,
    target: str,
    accuracies: Sequence[float | None],
    *,
    strategy: str = "acra-uniform",
    achieved: float | None = None,
    **changes: Any,
) -> Standing:
    """A standing with its finalist's outcomes, a seed each; None is a seed that failed."""
    asked = float(target)
    kept = asked if achieved is None else achieved
    for seed, accuracy in enumerate(accuracies):
        outcome = failed_outcome("the loss is not finite") if accuracy is None else judged(accuracy, kept)
        ledger.add(final(method, kept, seed), outcome)
    fields = {"method": method, "strategy": strategy, "target": target, "target_flops": int(asked * DENSE.flops),
              "final": seedless_key(final(method, kept), ledger.task), "searched": 9, "search_seconds": 41.5,
              "run": "some-run"}  # fmt: skip
    standing = Standing(**(fields | changes))
    store_standings(ledger, [standing])
    return standing


def filled(path: str, task: str = TASK, title: str = "resnet56 on cifar10") -> Ledger:
    """Two targets: one with a winner, a tie and a single seed; one with a coarse ladder, a failure and a refusal."""
    ledger = Ledger(path, task, title)
    store_dense(ledger, DENSE)
    add_row(ledger, "kse", "0.5", (0.941, 0.942, 0.943))
    add_row(ledger, "l1", "0.5", (0.930, 0.931, 0.932), achieved=0.498)
    add_row(ledger, "fpgm", "0.5", (0.9312, 0.9302, 0.9327), strategy="lagrangian")
    add_row(ledger, "taylor", "0.5", (0.999,))
    add_row(ledger, "l1", "0.3", (0.90, None, 0.91), achieved=0.27)
    store_standings(ledger, [Standing(method="kse", strategy="acra-uniform", target="0.3", target_flops=300_000,
                           reason="target '0.3' is out of reach", run="some-run")])  # fmt: skip
    return ledger


def printed(path: str, results: Path, form: str, *, out: Path | None = None, **asked: Any) -> str:
    board = api.leaderboard(ledger=path, results=results, **asked)
    return board.text(form) if out is None else board.write(out, form).read_text()
