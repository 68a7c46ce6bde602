"""What a run tells whoever watches it; screens (`search.terminal`) are observers, and the engine knows none of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from search.candidate import Candidate, Outcome
from search.engine.outcomes import RunOutcomes
from search.engine.prepare import PreparedRun
from search.settings.config import RunConfig
from search.strategies.contract import Proposal


class RunObserver:
    """Called in this order. It shows nothing by itself: override what is to be shown."""

    def loading(self, config: RunConfig) -> None:
        """The task is about to be loaded."""

    def say(self, line: str) -> None:
        """What is being done that takes a while: layer times are measured."""

    def prepared(self, run: PreparedRun) -> None:
        """Everything was checked, and nothing is paid for yet."""

    def warmed(self, run: PreparedRun) -> None:
        """What strategies that sample begin with is settled."""

    def recorded(self, run: PreparedRun, resume_command: str) -> None:
        """`run.json` is written: from now on the command goes on with the run."""

    def searching(self, run: PreparedRun) -> AbstractContextManager[None]:
        """Entered before the first candidate, left after the last."""
        return nullcontext()

    def started(self, candidate: Candidate) -> None:
        """A worker has taken a candidate up."""

    def judged(self, proposal: Proposal, outcome: Outcome, known: bool) -> None:
        """An outcome has come in; `known` ones were in the ledger."""

    def warn(self, text: str) -> None:
        """Something is odd, and the run goes on."""

    def all_judged(self) -> None:
        """No candidate is left."""

    def searched(self, outcomes: RunOutcomes) -> None:
        """The run is through, or was stopped; its files are not written yet."""


SILENT = RunObserver()
