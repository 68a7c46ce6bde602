"""What a run tells whoever watches it; screens (`search.terminal`) are observers, and the engine knows none of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is told about, which a plan does not need
    from search.candidate import Candidate, Outcome
    from search.engine.outcomes import RunOutcomes
    from search.engine.prepare import PreparedRun
    from search.settings.config import RunConfig
    from search.strategies.contract import Proposal


class RunObserver:
    """Called in this order. It shows nothing by itself: override what is to be shown."""

    def on_loading(self, config: RunConfig) -> None:
        """The task is about to be loaded."""

    def say(self, text: str) -> None:
        """What is being done that takes a while: layer times are measured."""

    def on_prepared(self, run: PreparedRun) -> None:
        """Everything was checked, and nothing is paid for yet."""

    def on_warm_start(self, run: PreparedRun) -> None:
        """What strategies that sample begin with is settled."""

    def on_recorded(self, run: PreparedRun, resume_command: str) -> None:
        """`run.json` is written: from now on the command goes on with the run."""

    def while_searching(self, run: PreparedRun) -> AbstractContextManager[None]:
        """Entered before the first candidate, left after the last."""
        return nullcontext()

    def on_candidate_started(self, candidate: Candidate) -> None:
        """A worker has taken a candidate up."""

    def on_outcome(self, proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        """An outcome has come in, from a worker or from the ledger."""

    def warn(self, text: str) -> None:
        """Something is odd, and the run goes on."""

    def on_all_judged(self) -> None:
        """No candidate is left."""

    def on_searched(self, outcomes: RunOutcomes) -> None:
        """The run is through, or was stopped; its files are not written yet."""


SILENT = RunObserver()
