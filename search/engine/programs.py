"""Strategies at work on their problems: together in a search, each for itself in a comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from models.errors import UserError, commonest_reason
from search.allocation.targets import Target
from search.candidate import Candidate
from search.engine.finalists import Seen, best_candidates, finalist_program
from search.engine.outcomes import Judged
from search.engine.prepare import PreparedRun
from search.engine.prepare_method import PreparedMethod
from search.engine.rungs import climb_rungs
from search.engine.standings import finalist_standings, store_standings, without_finalist
from search.judge.evaluate import rung_file
from search.ledger.ledger import Ledger
from search.strategies.contract import Program, Proposal
from search.strategies.registry import find_strategy


def start_programs(run: PreparedRun, ledger: Ledger) -> tuple[list[Program], Callable[[Seen], Program] | None]:
    """The programs that run side by side, and the one that follows them all: a search's finalists."""
    if run.config.comparison:
        # No program follows them all: each strategy tests its own finalists as soon as it is through.
        return [answer_alone(method, name, ledger) for method in run.methods for name in method.config.strategies], None
    (method,) = run.methods
    programs = [strategy_program(method, name) for name in run.config.strategies]
    return programs, _finalist_program(method, ledger) if run.config.finalists else None


def strategy_program(method: PreparedMethod, name: str) -> Program:
    """A strategy at work on its problem, rung by rung if that was asked for and it samples."""
    info, propose = find_strategy(name)
    rungs = method.config.ladder
    if rungs is None or not info.samples:
        return propose(method.problem)
    discard = partial(_discard_rung, method.config.rungs_folder, method.fingerprint)
    return climb_rungs(propose(method.problem), rungs, discard)


def _discard_rung(folder: Path, task: str, candidate: Candidate) -> None:
    """Remove the weights of a candidate that no later rung goes on from."""
    rung_file(folder, candidate, task).unlink(missing_ok=True)


def answer_alone(method: PreparedMethod, name: str, ledger: Ledger) -> Program:
    """One strategy's search for all targets of a method, then its own best candidate of each before the test set."""
    config, seen = method.config, Judged()
    try:
        yield from _noting_outcomes(strategy_program(method, name), seen)
    except UserError as error:  # of the strategy: the others of the comparison go on, and its rows say why it did not
        reasons = {target: str(error) for target in method.limits}
    else:
        answered = {proposal.target for proposal in best_candidates(seen, 1)}
        reasons = {target: _why_none(seen, target) for target in method.limits if target not in answered}
    store_standings(
        ledger,
        [without_finalist(config, name, target, method.limits[target], why) for target, why in reasons.items()],
    )
    if len(reasons) < len(method.limits):
        yield from _finalist_program(method, ledger)(seen)


def _finalist_program(method: PreparedMethod, ledger: Ledger) -> Callable[[Seen], Program]:
    """The program that tests the best candidates; the ledger keeps which they were."""
    config = method.config

    def keep_choice(seen: Seen, finals: list[Proposal]) -> None:
        standings = finalist_standings(
            seen,
            finals,
            method.limits,
            task=method.fingerprint,
            run=config.name,
            constraints=config.constraints.option_words(),
        )
        store_standings(ledger, standings)

    return finalist_program(config.finalists, config.final_seeds, config.final_recipe, keep_choice)


def _noting_outcomes(program: Program, seen: Judged) -> Program:
    """The program as it is, with its outcomes written down."""
    try:
        proposals = next(program)
        while True:
            outcomes = yield proposals
            seen += zip(proposals, outcomes, strict=True)
            proposals = program.send(outcomes)
    except StopIteration:
        return


def _why_none(seen: Judged, target: Target) -> str:
    reasons = [outcome.reason for proposal, outcome in seen if proposal.target == target and outcome.reason]
    return f"no candidate could be judged: {commonest_reason(reasons)}" if reasons else "no candidate was proposed"
