"""Comparisons: every method × strategy × target searched side by side, the best of each tested with several seeds.

One dispatch carries all of them, so that no worker waits for a method that is slow to decide; what the ledger knows
is not done again. A method or strategy that cannot answer leaves a row with the reason, and the others go on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from models.errors import UserError, commonest_reason
from search.allocation.choice import choose
from search.allocation.targets import Target
from search.candidate import Outcome
from search.dispatch.loop import dispatch
from search.engine.conductor import Conductor
from search.engine.estimate import expected, work
from search.engine.finalists import best_candidates, finalists
from search.engine.interruption import told_how_to_go_on
from search.engine.run_folder import alone_in, check_run_folder, refuse_other
from search.engine.run_record import write_record
from search.engine.rungs import check_samples
from search.engine.running import Watch, warn
from search.engine.session import Result, attempt_log, factory_of, open_ledger, program_of
from search.engine.setup import (
    Setup,
    bind_sites,
    budget_of,
    evaluator_of,
    measure_dense,
    problem_of,
    resources_of,
    table_of,
)
from search.engine.standings import Standing, keep, keep_dense, keeper, limit_fields
from search.engine.stopping import stop_signals
from search.engine.unchanged import refuse_changed
from search.latency.table import Say, tell
from search.ledger.ledger import Ledger
from search.ledger.storage import check_location
from search.machine.host import host_facts
from search.machine.last_words import last_words
from search.results.tables import Dense
from search.settings.command import resume_command
from search.settings.config import LEARNED, RunConfig
from search.strategies.contract import Program, Proposal, Stage
from search.terminal.console import say
from search.terminal.progress import Progress

Pairs = list[tuple[Proposal, Outcome]]


@dataclass
class Comparison:
    """A comparison ready to run: everything was checked, nothing was dispatched."""

    config: RunConfig
    setups: list[Setup]
    """One for every method that can reach a target; they share evaluator, dense figures and resources."""
    refused: list[Standing]
    """What cannot be answered, and why."""


@dataclass
class Compared:
    """What a comparison came to; one result for every method."""

    comparison: Comparison
    results: list[Result]
    complete: bool
    seconds: float


def prepare(config: RunConfig, say: Say = tell) -> Comparison:
    """Load the task, bind every method and check every target; UserError if nothing at all can be done."""
    check_run_folder(config)
    check_location(config.ledger)
    check_samples([name for search in config.parts for name in search.strategies], config.ladder)
    refuse_other(config.folder, config)
    evaluator, resources = evaluator_of(config), resources_of(config)
    refuse_changed(config.folder, evaluator.task)
    wanted = config.targets
    setups: list[Setup] = []
    refusals: list[tuple[RunConfig, Target, str]] = []
    measured = None
    for search in config.parts:
        try:
            compressor = bind_sites(evaluator, search)
            choice = choose(compressor, search.constraints)
            table = table_of(search, compressor, wanted, say)
        except UserError as error:
            refusals += [(search, target, str(error)) for target in wanted]
            continue
        measured = measured or measure_dense(evaluator, compressor, search)
        targets, out_of_reach = [], []
        for target in wanted:
            try:
                targets.append((target, budget_of(search, choice, target, table)))
            except UserError as error:
                out_of_reach.append((search, target, str(error)))
        refusals += out_of_reach
        if targets:
            problem = problem_of(search, choice, targets)
            setups.append(Setup(search, evaluator, compressor, choice, problem, targets, measured, resources, table))
    if measured is None or not setups:
        raise UserError(commonest_reason(reason for _, _, reason in refusals))
    if not any(setup.config.strategies for setup in setups):
        named = ", ".join(setup.config.method for setup in setups)
        raise UserError(f"nothing to compare: {named} cannot learn an allocation; name a strategy, e.g. acra-uniform")
    refused = [each for search, target, why in refusals for each in _refused(search, target, measured, why)]
    return Comparison(config, setups, refused + _cannot_learn(setups))


def _refused(search: RunConfig, target: Target, dense: Dense, reason: str) -> list[Standing]:
    """Limits that take a measurement of the dense network are not known for what was refused."""
    known = {"flops": dense.flops, "params": dense.params, "bytes": dense.bytes}
    limits = {part.measure: part.limit(known.get(part.measure, 0)) for part in target.parts}
    return [_without(search, name, target.asked, limits, reason) for name in search.strategies or (LEARNED,)]


def _cannot_learn(setups: list[Setup]) -> list[Standing]:
    """Rows of the methods that were asked for nothing but to learn their allocation, and cannot."""
    return [
        _without(
            setup.config, LEARNED, target.asked, budget.limits, f"{setup.config.method} does not learn its allocation"
        )
        for setup in setups
        if not setup.config.strategies
        for target, budget in setup.targets
    ]


def _without(search: RunConfig, name: str, target: str, limits: Mapping[str, int], reason: str) -> Standing:
    return Standing(
        method=search.method,
        options=search.method_options,
        strategy=name,
        target=target,
        **limit_fields(limits),
        constraints=tuple(search.constraints.words()),
        reason=reason,
        run=search.name,
    )


def run(comparison: Comparison, console: Console, *, retry_failed: bool = False) -> Compared:
    """Dispatch until every method is through, or Ctrl-C."""
    start, setups = time.monotonic(), comparison.setups
    first = setups[0]
    facts = host_facts(first.evaluator.task.device)
    attempts = attempt_log(comparison.config, first.fingerprint)
    with ExitStack() as stack:
        signals = stack.enter_context(stop_signals())
        stack.enter_context(alone_in(comparison.config.folder, comparison.config))
        ledger = stack.enter_context(open_ledger(first, partial(warn, console)))
        write_run(comparison, facts, "running")
        resume = resume_command(comparison.config)
        say(console, f"resume    {resume}\n")
        stack.enter_context(told_how_to_go_on(partial(write_run, comparison, facts, "stopped"), resume))
        stack.enter_context(last_words("while it compared", attempts.advice))
        progress = stack.enter_context(Progress(console, planned(setups), work(first)))
        watch = Watch(progress, signals.stop, partial(warn, console))
        keep_dense(ledger, first.dense)
        keep(ledger, comparison.refused)
        programs = [answer(setup, name, ledger) for setup in setups for name in setup.config.strategies]
        source = Conductor(
            programs,
            ledger,
            first.fingerprint,
            observe=watch,
            retry_failed=retry_failed,
            warn=partial(warn, console),
        )
        with signals.judging(attempts):
            dispatch(
                source,
                factory_of(*setups),
                first.resources,
                on_start=progress.started,
                stop=signals.stop,
                attempts=attempts,
            )
        if source.done:
            progress.complete()
    complete, seconds = source.done, time.monotonic() - start
    if complete:
        shutil.rmtree(first.config.rungs_folder, ignore_errors=True)
    write_run(comparison, facts, "finished" if complete else "stopped")
    watch.check()
    results = [Result(setup, _own(source.seen, setup), complete, seconds, facts, ledger.skipped) for setup in setups]
    return Compared(comparison, results, complete, seconds)


def _own(seen: Pairs, setup: Setup) -> Pairs:
    mine = (setup.config.method, setup.config.method_options)
    return [pair for pair in seen if (pair[0].candidate.method, pair[0].candidate.options) == mine]


def planned(setups: list[Setup]) -> dict[Stage, int]:
    """Candidates per stage as far as they can be foreseen."""
    counts: dict[Stage, int] = {"scan": 0, "rung": 0, "search": 0, "final": 0}
    for setup in setups:
        strategies = len(setup.config.strategies)
        for stage, count in expected(setup).items():
            counts[stage] += count * (strategies if stage == "final" else 1)
    return counts


def answer(setup: Setup, name: str, ledger: Ledger) -> Program:
    """One strategy's search for all targets of a method, then its own best candidate of each before the test set."""
    config, seen = setup.config, list[tuple[Proposal, Outcome]]()
    limits = {target.asked: budget.limits for target, budget in setup.targets}
    try:
        yield from _listening(program_of(setup, name), seen)
    except UserError as error:
        keep(ledger, [_without(config, name, asked, limit, str(error)) for asked, limit in limits.items()])
        return
    found = {str(proposal.target) for proposal in best_candidates(seen, 1)}
    keep(
        ledger,
        [_without(config, name, asked, limit, _why_none(seen, asked)) for asked, limit in limits.items()
         if asked not in found],
    )  # fmt: skip
    words = config.constraints.words()
    note = keeper(ledger, limits, task=setup.fingerprint, run=config.name, constraints=words)
    yield from finalists(config.finalists, config.final_seeds, config.final_recipe, note)(seen)


def _listening(program: Program, seen: Pairs) -> Program:
    """The program as it is, with its outcomes written down."""
    try:
        proposals = next(program)
        while True:
            outcomes = yield proposals
            seen += zip(proposals, outcomes, strict=True)
            proposals = program.send(outcomes)
    except StopIteration:
        return


def _why_none(seen: Pairs, target: str) -> str:
    reasons = [outcome.reason for proposal, outcome in seen if str(proposal.target) == target and outcome.reason]
    return f"no candidate could be judged: {commonest_reason(reasons)}" if reasons else "no candidate was proposed"


def write_run(comparison: Comparison, facts: dict[str, str], status: str) -> None:
    """The record of a comparison."""
    config, first = comparison.config, comparison.setups[0]
    write_record(config, first.evaluator.task, first.dense, facts, status)
