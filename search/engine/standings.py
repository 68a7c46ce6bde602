"""Leaderboard rows as the ledger keeps them: which finalist a method and strategy chose for a target, and its cost.

An outcome belongs to a candidate, and several strategies may propose the same candidate. A standing says that one
method and strategy chose this finalist for this target, and what finding it took; its test results are whatever the
ledger knows of the finalist, seed by seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from search.allocation.targets import Target
from search.candidate import Candidate, Frozen
from search.engine.finalists import Seen
from search.ledger.ledger import Ledger
from search.results.dense import Dense
from search.settings.config import RunConfig
from search.strategies.contract import Proposal

DENSE = "dense"
ROW = "row:"
ID_LENGTH = 8  # hexadecimal digits, few enough to be typed; `find_row` refuses a beginning that fits two rows


class Standing(Frozen):
    """A method and strategy's answer to a target, or the reason why there is none."""

    method: str
    options: dict[str, Any] = {}
    strategy: str
    target: Target
    target_flops: int | None
    """None for a target that does not speak of FLOPs."""
    target_limits: dict[str, int] = {}
    """Of the other measures."""
    targets: tuple[Target, ...] = ()
    """All that were asked for along with it; a strategy may search them together."""
    final: str | None = None
    """Key of the finalist with seed 0; None if there is none."""
    searched: int = 0
    """Candidates that were judged to find it, those of its sensitivity scan included."""
    search_seconds: float = 0.0
    """The workers' time for these; a scan that several strategies share counts in full for each."""
    constraints: tuple[str, ...] = ()
    """On single sites, as options of the command line."""
    reason: str | None = None
    """Why there is no finalist."""
    run: str = ""

    @property
    def question(self) -> str:
        """What was asked, whatever the answer."""
        # In limits and not as it was typed: `0.5` and `50%` are one question. The order is that of the ledgers that
        # exist, whose rows have names made of it.
        fields = [self.method, self.options, self.strategy, self.target_flops]
        return json.dumps([*fields, *self.constraints, *self.target_limits.items()], sort_keys=True)

    @property
    def row(self) -> str:
        """The name of its row; the same for the same question and answer, in every run."""
        return hashlib.sha256(f"{self.question}{self.final}".encode()).hexdigest()[:ID_LENGTH]


def seedless_key(candidate: Candidate, task: str) -> str:
    """What finalists that differ in their seed alone have in common."""
    return candidate.without_seed.key(task)


def finalist_standings(
    seen: Seen,
    finals: Iterable[Proposal],
    targets: Mapping[Target, Mapping[str, int]],
    *,
    task: str,
    run: str,
    constraints: Sequence[str] = (),
) -> list[Standing]:
    """One standing for every finalist, with what its method and strategy spent on its target.

    Args:
        targets: target -> measure -> limit.
    """
    standings: dict[str, Standing] = {}
    for proposal in finals:
        candidate, target = proposal.candidate, proposal.target
        assert target is not None  # of a scan alone, which has no finalists
        searched, seconds = _search_cost(seen, proposal)
        standing = Standing(
            method=candidate.method,
            options=candidate.options,
            strategy=proposal.strategy,
            target=target,
            **limit_fields(targets[target]),
            targets=tuple(targets),
            final=seedless_key(candidate, task),
            searched=searched,
            search_seconds=seconds,
            constraints=tuple(constraints),
            run=run,
        )
        standings[standing.row] = standing  # one for all seeds of a finalist: the row is named without the seed
    return list(standings.values())


def _search_cost(seen: Seen, final: Proposal) -> tuple[int, float]:
    """Distinct candidates, and their seconds, that the finalist's method and strategy judged for its target."""
    mine = {
        proposal.candidate: outcome.seconds
        for proposal, outcome in seen
        if (proposal.candidate.method, proposal.strategy) == (final.candidate.method, final.strategy)
        and proposal.candidate.options == final.candidate.options
        and proposal.target in (final.target, None)  # a scan serves every target
    }
    # Rungs of one candidate are one candidate, but each took its time.
    return len({candidate.without_rung for candidate in mine}), sum(mine.values())


def store_standings(ledger: Ledger, standings: Iterable[Standing]) -> None:
    """Write standings into the ledger; the same row again replaces itself."""
    for standing in standings:
        ledger.store_fact(ROW + standing.row, standing.model_dump(mode="json"))


def without_finalist(
    config: RunConfig, strategy: str, target: Target, limits: Mapping[str, int], reason: str
) -> Standing:
    """The row of a method, strategy and target without an answer."""
    return Standing(
        method=config.method,
        options=config.method_options,
        strategy=strategy,
        target=target,
        **limit_fields(limits),
        constraints=tuple(config.constraints.option_words()),
        reason=reason,
        run=config.name,
    )


def limit_fields(limits: Mapping[str, int]) -> dict[str, Any]:
    """A target's limits as fields of a standing."""
    others = {name: limit for name, limit in limits.items() if name != "flops"}
    return {"target_flops": limits.get("flops"), "target_limits": others}


def read_standings(ledger: Ledger) -> list[Standing]:
    """All rows of the ledger's task; a reason for having no finalist goes once there is one."""
    standings = []
    for fact in ledger.facts(ROW).values():
        try:
            standings.append(Standing.model_validate(fact))
        except ValidationError:  # of a later version
            ledger.skipped += 1
    answered = {standing.question for standing in standings if standing.final is not None}
    return [standing for standing in standings if standing.final is not None or standing.question not in answered]


def store_dense(ledger: Ledger, dense: Dense) -> None:
    """Write what is known of the dense network; a figure that is not measured this time stays."""
    recorded = ledger.facts(DENSE).get(DENSE, {})
    measured = {name: value for name, value in dense.record().items() if value is not None}
    ledger.store_fact(DENSE, {**recorded, **measured})


def read_dense(ledger: Ledger) -> Dense | None:
    """The dense network's figures; None if no search of this task has left them."""
    fact = ledger.facts(DENSE).get(DENSE)
    try:
        return None if fact is None else Dense.from_record(fact)
    except (TypeError, ValueError):
        return None
