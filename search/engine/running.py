"""A run as it goes on: candidates are dispatched until every strategy and the finalists are through."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from methods.registry import check_reachable
from models.data.picture_folders import current_findings
from models.tasks.build import carried_tasks
from models.user.given_networks import carried_networks
from search.candidate import Outcome
from search.dispatch.attempts import AttemptLog
from search.dispatch.loop import dispatch
from search.engine.candidate_queue import CandidateQueue
from search.engine.doubts import Doubts, began_again
from search.engine.interruption import told_how_to_go_on
from search.engine.observer import SILENT, RunObserver
from search.engine.outcomes import RunOutcomes, split_by_method
from search.engine.prepare import PreparedRun
from search.engine.programs import start_programs
from search.engine.run_folder import claim_run_folder
from search.engine.run_record import recorded_fields, write_record
from search.engine.standings import store_dense, store_standings
from search.engine.stopping import stop_signals
from search.engine.warm_start import warm_problem
from search.judge.evaluate import Evaluator, load_evaluator
from search.ledger.ledger import Ledger, LedgerError
from search.machine.host import host_facts
from search.machine.last_words import last_words
from search.settings.command import resume_command
from search.settings.config import RunConfig
from search.strategies.contract import Proposal


def run_prepared(run: PreparedRun, observer: RunObserver = SILENT, *, retry_failed: bool = False) -> RunOutcomes:
    """Dispatch candidates until every strategy and the finalists are through, or Ctrl-C.

    Args:
        retry_failed: judge again what the ledger knows as failed.

    Raises:
        UserError: the folder is another run's, a fault of the machine, or every candidate failed.
    """
    start, config, resume = time.monotonic(), run.config, resume_command(run.config)
    facts = host_facts(run.task.device)
    attempts = attempt_log(config, run.fingerprint)
    with ExitStack() as stack:
        signals = stack.enter_context(stop_signals())
        # The order matters: opened, the ledger takes in what an earlier process left in the folder, which must be ours
        # by then; and the warm start is settled before the record is written, which keeps it for a resumption.
        stack.enter_context(claim_run_folder(config.folder, config))
        ledger = stack.enter_context(open_ledger(run, observer.warn))
        if config.warm_start and not config.comparison:
            _warm_up(run, ledger)
            observer.on_warm_start(run)
        _write_run(run, facts, "running")
        stack.enter_context(last_words(f"while it {'compared' if config.comparison else 'searched'}", attempts.advice))
        observer.on_recorded(run, resume)  # not before: the command reads what was just written
        stack.enter_context(told_how_to_go_on(partial(_write_run, run, facts, "stopped"), resume))
        stack.enter_context(observer.while_searching(run))
        doubts = Doubts(signals.stop)
        store_dense(ledger, run.dense)
        store_standings(ledger, run.refused)
        queue = _queue_candidates(run, ledger, observer, doubts, retry_failed=retry_failed)
        with signals.while_judging(attempts):
            dispatch(
                queue,
                evaluator_factory(run),
                run.resources,
                on_start=observer.on_candidate_started,
                stop=signals.stop,
                attempts=attempts,
            )
        if queue.done:
            observer.on_all_judged()
    seconds = time.monotonic() - start
    if queue.done:
        # Fine-tunes that were broken off at a rung: a stopped run goes on from them, a finished one has no use for any.
        shutil.rmtree(config.rungs_folder, ignore_errors=True)
    _write_run(run, facts, "finished" if queue.done else "stopped")
    doubts.check_successes()  # after the record is written: the sentence advises to resume the run
    methods = split_by_method(run, queue.seen, complete=queue.done, seconds=seconds, facts=facts)
    outcomes = RunOutcomes(run, methods, queue.done, seconds, ledger.skipped)
    observer.on_searched(outcomes)
    return outcomes


def _queue_candidates(
    run: PreparedRun, ledger: Ledger, observer: RunObserver, doubts: Doubts, *, retry_failed: bool
) -> CandidateQueue:
    """The strategies' candidates as a queue; the first ones that the ledger answers are told at once."""

    def note_outcome(proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        observer.on_outcome(proposal, outcome, from_ledger)
        doubts.note_outcome(proposal, outcome, from_ledger)
        if not from_ledger and began_again(proposal, outcome):
            observer.warn(f"what a rung of {proposal.strategy} left was gone: fine-tuned again from the start")

    programs, finals = start_programs(run, ledger)
    return CandidateQueue(
        programs,
        ledger,
        run.fingerprint,
        finalists=finals,
        observe=note_outcome,
        retry_failed=retry_failed,
        warn=observer.warn,
    )


def _warm_up(run: PreparedRun, ledger: Ledger) -> None:
    """Let strategies that sample begin with what the ledger knows; a run that is resumed, with what it began with."""
    keys = recorded_fields(run.config.folder).get("warm_start")
    run.methods = [
        replace(method, problem=warm_problem(method.problem, ledger, method.config.strategies, keys))
        for method in run.methods
    ]


def _write_run(run: PreparedRun, facts: Mapping[str, str], status: str) -> None:
    """The run's record as it stands."""
    limits = {target: limits for method in run.methods for target, limits in method.limits.items()}
    write_record(
        run.config,
        run.task,
        run.dense,
        facts,
        status,
        targets=[{"asked": str(target), **limits[target]} for target in limits],
        warm_start=[outcome.key for method in run.methods for outcome in method.problem.known_candidates],
    )


def evaluator_factory(run: PreparedRun) -> partial[Evaluator]:
    """In this process the evaluator is there already; elsewhere each worker builds its own.

    Raises:
        UserError: workers cannot reach a method.
    """
    if run.resources.workers == 0:
        return partial(_return_evaluator, run.evaluator)
    config = run.config
    for method in run.methods:
        check_reachable(method.config.method)
    return partial(
        load_evaluator,
        config.task.with_absolute_paths(),
        device=config.device,
        keep_weights=(config.folder / "weights").absolute(),
        keep_rungs=config.rungs_folder.absolute() if config.rungs else None,
        time_limit=config.time_limit,
        methods=[method.config.method for method in run.methods],
        code=config.code,
        networks=carried_networks(config.task.network),
        tasks=carried_tasks(config.task.task),
        folders=current_findings(),
        fingerprint=run.fingerprint,
    )


def _return_evaluator(evaluator: Evaluator) -> Evaluator:
    return evaluator


def attempt_log(config: RunConfig, task: str) -> AttemptLog:
    """Where the run remembers candidates whose process dies: its folder `crashes`."""
    advice = f"go on with: {resume_command(config)}"
    return AttemptLog(config.folder / "crashes", lambda candidate: candidate.key(task), advice)


@contextmanager
def open_ledger(run: PreparedRun, warn: Callable[[str], None]) -> Iterator[Ledger]:
    """The task's ledger; what it could not write in the end lies beside the run's files, and the user is told."""
    config = run.config
    ledger = Ledger(config.ledger, run.fingerprint, run.title, run.task.metric, rescue=config.folder / "unsaved.jsonl")
    for notice in ledger.notices:
        warn(notice)
    try:
        yield ledger
    finally:
        try:
            ledger.close()
        except LedgerError as error:
            warn(str(error))
