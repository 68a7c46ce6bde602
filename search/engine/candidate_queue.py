"""Runs strategies side by side as one source of candidates, and their finalists after them.

Strategies wait for whole batches of outcomes; while one waits, another's candidates keep the workers busy. What the
ledger knows is answered from there, and two strategies that propose the same candidate pay for it once. So do two
searches at the same time, but for what both are just judging: after every outcome the ledger is asked for news.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from models.errors import UserError
from search.candidate import Candidate, Outcome
from search.judge.faults import MachineFaultError, is_machine_fault
from search.ledger.ledger import Ledger, LedgerError
from search.strategies.contract import Program, Proposal

OnOutcome = Callable[[Proposal, Outcome, bool], None]
"""Called with every outcome; the flag says that it came from the ledger and was not judged now."""


@dataclass
class _Batch:
    """A program's batch: its proposals, and the outcomes that have come in."""

    program: Program
    proposals: list[Proposal]
    outcomes: list[Outcome | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outcomes = [None] * len(self.proposals)

    def all_outcomes(self) -> list[Outcome] | None:
        """All outcomes in order, once they are there."""
        judged = [outcome for outcome in self.outcomes if outcome is not None]
        return judged if len(judged) == len(self.proposals) else None


class CandidateQueue:
    """A `dispatch.Source` over several programs.

    Args:
        programs: started together.
        finalists: given all search proposals with their outcomes once the programs are through; one more program.
        observe: told every outcome as it comes.
        retry_failed: judge again what the ledger knows as failed.
        warn: told when the ledger cannot be written; the outcome is kept and the search goes on.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        ledger: Ledger,
        task: str,
        *,
        finalists: Callable[[list[tuple[Proposal, Outcome]]], Program] | None = None,
        observe: OnOutcome | None = None,
        retry_failed: bool = False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._retry_failed, self._warn = retry_failed, warn
        self._ledger, self._task, self._finalists, self._observe = ledger, task, finalists, observe
        self._queue: deque[str] = deque()  # keys, in the order of their proposals
        self._from_the_end = False
        self._waiting: dict[str, list[tuple[_Batch, int]]] = {}
        self._told: set[str] = set()  # keys judged in this run: whoever proposes one again gets that answer
        self._running = 0  # programs that are not through
        self.seen: list[tuple[Proposal, Outcome]] = []
        for program in programs:
            self._advance_program(program, None)
        self._start_finalists()

    @property
    def done(self) -> bool:
        """Nothing is queued, running or waited for."""
        return not self._running

    def ask(self) -> Candidate | None:
        if not self._queue:
            return None
        key = self._queue.pop() if self._from_the_end else self._queue.popleft()
        batch, index = self._waiting[key][0]
        return batch.proposals[index].candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """Record an outcome and hand it to whoever waits for it.

        Raises:
            MachineFaultError: it says nothing of the candidate, or it cannot be kept anywhere.
        """
        if is_machine_fault(outcome):
            raise MachineFaultError(outcome.reason)
        key = candidate.key(self._task)
        self._told.add(key)
        if key in self._take_in_news():
            # Another search judged this candidate at the same time: take from the other end of the queue, so that the
            # two do not duplicate each other.
            self._from_the_end = not self._from_the_end
        batch, index = self._waiting[key][0]
        proposal = batch.proposals[index]
        meta = {
            "strategy": proposal.strategy,
            "target": None if proposal.target is None else proposal.target.asked,
            "stage": proposal.stage,
        }
        try:
            self._ledger.add(candidate, outcome, meta)
        except LedgerError as error:
            if not error.kept:
                raise MachineFaultError(str(error)) from error
            self._warn(str(error))
        self._deliver_outcome(key, outcome, from_ledger=False)
        self._start_finalists()

    def _take_in_news(self) -> set[str]:
        """The keys of what other searches have found; what is queued here of it need not be judged any more."""
        try:
            news = self._ledger.refresh()
        except UserError:  # locked, or gone: the next write says so
            return set()
        for key in [key for key in self._queue if key in news]:
            outcome = self._ledger.get(key)
            if outcome is not None and self._is_answered(key, outcome):
                self._queue.remove(key)
                self._deliver_outcome(key, outcome, from_ledger=True)
        return news

    def _is_answered(self, key: str, recorded: Outcome) -> bool:
        """Whether the ledger's answer will do; a failure that says nothing of the candidate is no answer."""
        return recorded.status == "ok" or key in self._told or not (self._retry_failed or is_machine_fault(recorded))

    def _advance_program(self, program: Program, outcomes: list[Outcome] | None) -> None:
        """Let a program go on and queue its next batch; goes over batches that the ledger answers whole."""
        self._running += outcomes is None
        while True:
            try:
                proposals = next(program) if outcomes is None else program.send(outcomes)
            except StopIteration:
                self._running -= 1
                return
            batch = _Batch(program, proposals)
            for index, proposal in enumerate(proposals):
                self._enlist_proposal(batch, index, proposal)
            outcomes = batch.all_outcomes()
            if outcomes is None:
                return

    def _enlist_proposal(self, batch: _Batch, index: int, proposal: Proposal) -> None:
        """Answer a proposal from the ledger, or queue its candidate unless another proposal has queued it."""
        key = proposal.candidate.key(self._task)
        recorded = self._ledger.get(key)
        if recorded is not None and self._is_answered(key, recorded):
            batch.outcomes[index] = recorded
            self._note_outcome(proposal, recorded, from_ledger=True)
        elif key in self._waiting:
            self._waiting[key].append((batch, index))
        else:
            self._waiting[key] = [(batch, index)]
            self._queue.append(key)

    def _deliver_outcome(self, key: str, outcome: Outcome, *, from_ledger: bool) -> None:
        """Hand an outcome to every batch that waits for it; a batch that is complete lets its program go on."""
        for batch, index in self._waiting.pop(key):
            batch.outcomes[index] = outcome
            self._note_outcome(batch.proposals[index], outcome, from_ledger=from_ledger)
            if (outcomes := batch.all_outcomes()) is not None:
                self._advance_program(batch.program, outcomes)

    def _note_outcome(self, proposal: Proposal, outcome: Outcome, *, from_ledger: bool) -> None:
        self.seen.append((proposal, outcome))
        if self._observe is not None:
            self._observe(proposal, outcome, from_ledger)

    def _start_finalists(self) -> None:
        """Once the programs are through, the one that follows them starts, a single time."""
        if not self._running and self._finalists is not None:
            finalists, self._finalists = self._finalists, None
            self._advance_program(finalists(self.seen), None)
