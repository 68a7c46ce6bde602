"""A task, candidates and outcomes for the tests of ledgers."""

from __future__ import annotations

from typing import Any

from search.candidate import Candidate, Outcome

TASK, TITLE = "0123456789abcdef", "resnet20 on cifar10"


def candidate(number: int = 0, **changes: Any) -> Candidate:
    return Candidate(**({"method": "l1", "allocation": {"conv": {"ratio": 0.5}}, "seed": number} | changes))


def outcome(number: int = 0) -> Outcome:
    return Outcome(
        status="ok", accuracy=0.5 + number / 1000, loss=1.25, flops=10**6 + number, seconds=3.5, notes={"α": [1, None]}
    )
