"""What a run came to: every proposal with its outcome, method by method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.candidate import Candidate, Outcome
from search.engine.prepare import PreparedRun
from search.engine.prepare_method import PreparedMethod
from search.strategies.contract import Proposal

Judged = list[tuple[Proposal, Outcome]]


@dataclass
class MethodOutcomes:
    """What one method of a run came to."""

    prepared: PreparedMethod
    seen: Judged
    """In the order in which they came in; a candidate that several strategies proposed, several times."""
    complete: bool
    seconds: float
    """Of the whole run, on the clock."""
    facts: Mapping[str, str]
    """Of the host, and versions."""

    def candidate_key(self, candidate: Candidate) -> str:
        """The candidate's key in the ledger."""
        return candidate.key(self.prepared.fingerprint)


@dataclass
class RunOutcomes:
    """What a run came to."""

    prepared: PreparedRun
    methods: list[MethodOutcomes]
    complete: bool
    """False if it was stopped before it was through."""
    seconds: float
    skipped: int = 0
    """Records of the ledger that could not be read."""


def split_by_method(
    run: PreparedRun, seen: Judged, *, complete: bool, seconds: float, facts: Mapping[str, str]
) -> list[MethodOutcomes]:
    """The outcomes of each method, which a comparison's strategies left in one list."""
    by_method: dict[str, Judged] = {method.config.method: [] for method in run.methods}  # each is named once in a run
    for proposal, outcome in seen:
        by_method[proposal.candidate.method].append((proposal, outcome))
    return [MethodOutcomes(method, by_method[method.config.method], complete, seconds, facts) for method in run.methods]
