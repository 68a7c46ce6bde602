"""What is odd about the outcomes of a run: rungs that began again, and failures without a single success."""

from __future__ import annotations

import threading

from models.errors import UserError, commonest_reason
from models.settings import setting_name
from search.candidate import Outcome
from search.engine.outcomes import RunOutcomes
from search.judge.evaluate import SPARED
from search.strategies.contract import Proposal

HOPELESS = 10  # so many failures without a success end a search


class Doubts:
    """Stops a search whose every candidate fails; measurements of a scan are counted apart."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._failures: dict[bool, list[str]] = {True: [], False: []}  # scan or not -> reasons
        self._successes = {True: 0, False: 0}

    def note_outcome(self, proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        """Stop the search once ten candidates were judged and none of them succeeded."""
        scan = proposal.stage == "scan"
        if outcome.status == "ok":
            self._successes[scan] += 1
        else:
            self._failures[scan].append(outcome.reason or "no reason given")
        # What the ledger knows costs nothing, so a run of known failures alone stops nothing.
        if not from_ledger and not self._successes[scan] and len(self._failures[scan]) >= HOPELESS:
            self._stop.set()

    def check_successes(self) -> None:
        """UserError if nothing but failures came of the search."""
        for scan, what in ((False, "candidate"), (True, "measurement of the scan")):
            failures = self._failures[scan]
            if failures and not self._successes[scan]:
                raise _all_failed(what, failures)


def check_finalists(outcomes: RunOutcomes) -> None:
    """UserError if finalists were tested and all of them failed: the run has no answer."""
    finals = [outcome for method in outcomes.methods for proposal, outcome in method.seen if proposal.stage == "final"]
    failures = [outcome.reason or "no reason given" for outcome in finals if outcome.status == "failed"]
    if failures and len(failures) == len(finals):
        raise _all_failed("finalist", failures)


def _all_failed(what: str, reasons: list[str]) -> UserError:
    return UserError(
        f"every {what} failed, {len(reasons)} in all, most often so: {commonest_reason(reasons)}; change what is at "
        f"fault, or judge them again with {setting_name('resume')} and {setting_name('retry_failed')}"
    )


def began_again(proposal: Proposal, outcome: Outcome) -> bool:
    """Whether a rung should have gone on from the one before, and could not."""
    return proposal.after > 0 and outcome.status == "ok" and SPARED not in outcome.notes
