"""The contract of a strategy: a generator function that takes a `Problem`.

It yields a batch of proposals and is sent their outcomes, in the order of the batch, once all are known; and so on
until it returns. Rules:

- Proposals depend on outcomes and `problem.seed` alone, so that they are the same with any number of workers.
- A target gets at most `problem.trials` candidates, not counting the measurements of a scan.
- The first proposal for a target after a scan is the strategy's best guess: plans show it, and strategies that sample
  begin with it.

`search.strategies.registry.register` makes a strategy known by its name (`records.py`); `acra.py` is a short example.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a strategy's record is read without torch
    from search.allocation.targets import Target
    from search.candidate import Candidate, Outcome
    from search.strategies.problem import Problem

Stage = Literal["scan", "rung", "search", "final"]


@dataclass(frozen=True)
class Proposal:
    """A candidate, and the reason why it is judged."""

    candidate: Candidate
    stage: Stage
    strategy: str
    target: Target | None = None
    """None for a measurement of a scan, which serves all targets."""
    alone: bool = False
    """No other candidate has its limit, so that rungs cannot compare it with any; it is judged at the end only."""
    after: float = 0.0
    """Epochs of the rung whose weights the fine-tune goes on from; the engine sets it, no strategy."""


Program = Generator[list[Proposal], list["Outcome"], None]
Propose = Callable[["Problem"], Program]


@dataclass(frozen=True)
class StrategyInfo:
    """What a strategy is, needs and costs."""

    name: str
    summary: str
    source: str
    needs_data: bool | None = True
    """Whether it starts from a sensitivity scan; None where nobody has said so."""
    takes_predictions: bool = False
    """Whether damages that a method predicts for all sites take the place of its scan."""
    samples: bool = False
    """Whether it tries all `trials` candidates per target, partly by chance."""
    candidates: int = 1
    """Candidates per target of a strategy that does not sample; at most `trials`."""

    def scans(self, *, predicted: bool) -> bool:
        """Whether it measures curves, for a method that predicts damages or one that does not."""
        return bool(self.needs_data) and not (predicted and self.takes_predictions)
