"""What a search gives to a dispatcher: a source of candidates, a factory of evaluators, and resources to run on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from models.errors import UserError
from search.candidate import Candidate, Outcome

Evaluate = Callable[[Candidate], Outcome]
Factory = Callable[[], Evaluate]
"""Builds a worker's evaluator once: data and dense network loaded, ready for candidate after candidate. Picklable."""


class Source(Protocol):
    """Where candidates come from and outcomes go to; called by one thread, in the order of events."""

    def ask(self) -> Candidate | None:
        """The next candidate; None when there is none before another outcome is told."""

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """An outcome, as it arrives; exactly once for every candidate asked, unless the search is stopped."""

    @property
    def done(self) -> bool:
        """Nothing will be asked again and nothing outstanding is needed."""


@dataclass(frozen=True)
class Resources:
    """What candidates run on."""

    workers: int = 0
    """Processes that judge candidates at the same time; 0 judges them in this process, one by one."""
    gpus_per_worker: float = 0.0
    """Fractions share a GPU; 0 hides GPUs from workers, but not from this process (`workers=0`)."""
    ray_address: str | None = None
    """A running Ray cluster (`auto` or host:port); None starts one on this machine."""
    time_limit: float | None = None
    """Seconds that one candidate may take in a worker; not enforced with `workers=0`."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"workers must be 0 (in this process) or more, not {self.workers}")
        if not 0 <= self.gpus_per_worker < math.inf:
            raise UserError(f"GPUs per worker must be 0 or more, not {self.gpus_per_worker}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise UserError(f"GPUs per worker must be a fraction of one or a whole number, not {self.gpus_per_worker}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise UserError(f"the time limit must be more than 0 seconds, not {self.time_limit}")
        if self.workers == 0 and self.ray_address is not None:
            raise UserError(f"a Ray cluster ({self.ray_address}) needs at least one worker, not 0")
