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

Observer = Callable[[Proposal, Outcome, bool], None]
"""Called with every outcome; the flag says that it was in the ledger already."""


@dataclass
class _Batch:
    """A program's batch: its proposals, and the outcomes that have come in."""

    program: Program
    proposals: list[Proposal]
    outcomes: list[Outcome | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outcomes = [None] * len(self.proposals)

    def complete(self) -> list[Outcome] | None:
        """All outcomes in order, once they are there."""
        known = [outcome for outcome in self.outcomes if outcome is not None]
        return known if len(known) == len(self.proposals) else None


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
        observe: Observer | None = None,
        retry_failed: bool = False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._retry_failed, self._warn = retry_failed, warn
        self._ledger, self._task, self._finalists, self._observe = ledger, task, finalists, observe
        self._queue: deque[str] = deque()  # keys, in the order of their proposals
        self._from_the_end = False
        self._waiting: dict[str, list[tuple[_Batch, int]]] = {}
        self._told: set[str] = set()  # judged in this run: whoever asks again gets that answer
        self._running = 0
        self.seen: list[tuple[Proposal, Outcome]] = []
        for program in programs:
            self._advance(program, None)
        self._maybe_finish()

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
        if key in self._take_in():  # another search was at it too: begin where that one will end
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
        self._deliver(key, outcome, known=False)
        self._maybe_finish()

    def _take_in(self) -> set[str]:
        """The keys of what other searches have found; what is queued here of it need not be judged any more."""
        try:
            news = self._ledger.refresh()
        except UserError:  # locked, or gone: a write will say so
            return set()
        for key in [key for key in self._queue if key in news]:
            outcome = self._ledger.get(key)
            if outcome is not None and self._settled(key, outcome):
                self._queue.remove(key)
                self._deliver(key, outcome, known=True)
        return news

    def _settled(self, key: str, known: Outcome) -> bool:
        """Whether the ledger's answer will do."""
        return known.status == "ok" or key in self._told or not (self._retry_failed or is_machine_fault(known))

    def _advance(self, program: Program, outcomes: list[Outcome] | None) -> None:
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
                self._enlist(batch, index, proposal)
            outcomes = batch.complete()
            if outcomes is None:
                return

    def _enlist(self, batch: _Batch, index: int, proposal: Proposal) -> None:
        key = proposal.candidate.key(self._task)
        known = self._ledger.get(key)
        if known is not None and self._settled(key, known):
            batch.outcomes[index] = known
            self._note(proposal, known, known=True)
        elif key in self._waiting:
            self._waiting[key].append((batch, index))
        else:
            self._waiting[key] = [(batch, index)]
            self._queue.append(key)

    def _deliver(self, key: str, outcome: Outcome, *, known: bool) -> None:
        for batch, index in self._waiting.pop(key):
            batch.outcomes[index] = outcome
            self._note(batch.proposals[index], outcome, known=known)
            self._settle(batch)

    def _settle(self, batch: _Batch) -> None:
        outcomes = batch.complete()
        if outcomes is not None:
            self._advance(batch.program, outcomes)

    def _note(self, proposal: Proposal, outcome: Outcome, *, known: bool) -> None:
        self.seen.append((proposal, outcome))
        if self._observe is not None:
            self._observe(proposal, outcome, known)

    def _maybe_finish(self) -> None:
        if not self._running and self._finalists is not None:
            finalists, self._finalists = self._finalists, None
            self._advance(finalists(self.seen), None)
