"""A search as it runs: dispatch until every strategy and the finalists are through, keep `run.json`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from methods.registry import check_reachable
from models.data.picture_folders import current_findings
from models.user.given_networks import carried_networks, is_given_network
from models.user.spec_names import class_of
from search.candidate import Candidate, Outcome
from search.dispatch.attempts import AttemptLog
from search.dispatch.loop import dispatch
from search.engine.conductor import Conductor
from search.engine.estimate import expected, work
from search.engine.finalists import finalists
from search.engine.interruption import told_how_to_go_on
from search.engine.run_folder import alone_in
from search.engine.run_record import recorded, write_record
from search.engine.rungs import climb
from search.engine.running import Watch, warn
from search.engine.setup import Setup
from search.engine.standings import keep_dense, keeper
from search.engine.stopping import stop_signals
from search.engine.warm import warmed
from search.judge.evaluate import Evaluator, load_evaluator, rung_file
from search.ledger.ledger import Ledger, LedgerError
from search.machine.host import host_facts
from search.machine.last_words import last_words
from search.settings.command import resume_command
from search.settings.config import RunConfig
from search.strategies.contract import Program, Proposal, strategy
from search.terminal.console import say
from search.terminal.progress import Progress


@dataclass
class Result:
    """What a search came to."""

    setup: Setup
    seen: list[tuple[Proposal, Outcome]]
    complete: bool
    seconds: float
    facts: dict[str, str]
    skipped: int = 0
    """Records of the ledger that could not be read."""


def run(setup: Setup, console: Console, *, retry_failed: bool = False) -> Result:
    """Dispatch until every strategy and the finalists are through, or Ctrl-C."""
    start, config = time.monotonic(), setup.config
    facts = host_facts(setup.evaluator.task.device)
    attempts = attempt_log(config, setup.fingerprint)
    counts, costs = expected(setup), work(setup)
    with ExitStack() as stack:
        signals = stack.enter_context(stop_signals())
        stack.enter_context(alone_in(config.folder, config))
        ledger = stack.enter_context(open_ledger(setup, partial(warn, console)))
        if config.warm_start:
            setup.problem = warmed(setup.problem, ledger, config.strategies, recorded(config.folder).get("warm_start"))
            tell_start(setup, console)
        write_run(setup, facts, "running")
        stack.enter_context(last_words("while it searched", attempts.advice))
        say(console, f"resume    {resume_command(config)}\n")  # not before: it reads what was just written
        stopped = partial(write_run, setup, facts, "stopped")
        stack.enter_context(told_how_to_go_on(stopped, resume_command(config)))
        progress = stack.enter_context(Progress(console, counts, costs))
        watch = Watch(progress, signals.stop, partial(warn, console))
        programs = [program_of(setup, name) for name in config.strategies]
        keep_dense(ledger, setup.dense)
        limits = {target.asked: budget.limits for target, budget in setup.targets}
        words = config.constraints.words()
        note = keeper(ledger, limits, task=setup.fingerprint, run=config.name, constraints=words)
        final = finalists(config.finalists, config.final_seeds, config.final_recipe, note) if config.finalists else None
        source = Conductor(
            programs,
            ledger,
            setup.fingerprint,
            finalists=final,
            observe=watch,
            retry_failed=retry_failed,
            warn=partial(warn, console),
        )
        factory = factory_of(setup)
        with signals.judging(attempts):
            dispatch(
                source,
                factory,
                setup.resources,
                on_start=progress.started,
                stop=signals.stop,
                attempts=attempts,
            )
        if source.done:
            progress.complete()
    complete = source.done
    if complete:
        shutil.rmtree(config.rungs_folder, ignore_errors=True)
    write_run(setup, facts, "finished" if complete else "stopped")
    watch.check()
    return Result(setup, source.seen, complete, time.monotonic() - start, facts, ledger.skipped)


def program_of(setup: Setup, name: str) -> Program:
    """A strategy at work on its problem, rung by rung if that was asked for and it samples."""
    info, propose = strategy(name)
    rungs = setup.config.ladder
    if rungs is None or not info.samples:
        return propose(setup.problem)
    folder, task = setup.config.rungs_folder, setup.fingerprint
    return climb(propose(setup.problem), rungs, lambda gone: rung_file(folder, gone, task).unlink(missing_ok=True))


def tell_start(setup: Setup, console: Console) -> None:
    """What strategies that sample begin with."""
    known, lenders = setup.problem.known, setup.problem.lenders
    if known:
        best = max(each.accuracy for each in known)
        text = f"start     {len(known)} candidates near the targets are known (best {best:.2%}) and cost nothing"
        console.print(text, highlight=False)
    if lenders:
        console.print(f"start     sampling begins with the first points of {', '.join(lenders)}", highlight=False)


def factory_of(setup: Setup, *others: Setup) -> partial[Evaluator]:
    """In this process the evaluator is there already; elsewhere each worker builds its own.

    UserError for a method that workers cannot reach. Other setups differ in methods and strategies alone.
    """
    if setup.resources.workers == 0:
        return partial(_same, setup.evaluator)
    config, configs = setup.config, [each.config for each in (setup, *others)]
    for method in (each.method for each in configs):
        check_reachable(method)
    return partial(
        load_evaluator,
        config.task.with_absolute_paths(),
        device=config.device,
        keep_weights=(config.folder / "weights").absolute(),
        keep_rungs=config.rungs_folder.absolute() if config.rungs else None,
        time_limit=config.time_limit,
        networks=carried_networks(config.task.network),
        folders=current_findings(),
        fingerprint=setup.fingerprint,
        methods=[each.method for each in configs],
        code={identity: place for each in configs for identity, place in each.code.items()},
    )


def _same(evaluator: Evaluator) -> Evaluator:
    return evaluator


def attempt_log(config: RunConfig, task: str) -> AttemptLog:
    """Where the run remembers candidates whose process dies: its folder `crashes`."""
    advice = f"go on with: {resume_command(config)}"
    return AttemptLog(config.folder / "crashes", lambda candidate: candidate.key(task), advice)


@contextmanager
def open_ledger(setup: Setup, tell: Callable[[str], None]) -> Iterator[Ledger]:
    """The task's ledger; what it could not write in the end lies beside the run's files, and the user is told."""
    config = setup.config
    ledger = Ledger(config.ledger, setup.fingerprint, title(setup), rescue=config.folder / "unsaved.jsonl")
    for notice in ledger.notices:
        tell(notice)
    try:
        yield ledger
    finally:
        try:
            ledger.close()
        except LedgerError as error:
            tell(str(error))


def title(setup: Setup) -> str:
    task = setup.config.task
    return f"{short(task.network)} on {short(task.data)}"


def short(spec: str) -> str:
    """A network or data spec without its folders; an object by its class."""
    return class_of(spec) if is_given_network(spec) else spec.rsplit("/", 1)[-1]


def write_run(setup: Setup, facts: dict[str, str], status: str) -> None:
    """The record of a search."""
    write_record(
        setup.config,
        setup.evaluator.task,
        setup.dense,
        facts,
        status,
        targets=[{"asked": target.asked, **budget.limits} for target, budget in setup.targets],
        warm_start=[lent.key for lent in setup.problem.known],
    )


def key_of(result: Result, candidate: Candidate) -> str:
    return candidate.key(result.setup.fingerprint)
