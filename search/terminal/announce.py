"""The first screen of a run: what will be done and where; how long it takes, only measured paces tell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console

from methods.dense_shares import dense_shares
from methods.graph.trace import uncounted_flops
from models.settings import setting_name
from models.tasks.metric import ACCURACY
from models.wording import plural
from search.allocation.budget import Budget
from search.allocation.targets import flops_text
from search.dispatch.contract import Resources
from search.engine.estimate import expected_candidates
from search.engine.prepare import PreparedRun
from search.engine.prepare_method import PreparedMethod
from search.judge.drift import drift_notes
from search.settings.config import RunConfig
from search.strategies.contract import Stage
from search.strategies.registry import find_strategy
from search.terminal.console import UNCOUNTED, print_line
from search.terminal.show_plan import dense_share_text


def announce_run(run: PreparedRun, console: Console) -> None:
    """The first screen: what will be done, what cannot be, and where."""
    heading, *lines = [_heading_text(run), *_fact_lines(run), *(f"note      {note}" for note in _run_notes(run))]
    print_line(console, heading, "bold")
    for line in lines:
        print_line(console, line)


def _heading_text(run: PreparedRun) -> str:
    dense = run.dense
    tested = "" if dense.test_score is None else f", {dense.named_score(dense.test_score)} on the test set"
    return f"{run.title}: {flops_text(dense.flops)} FLOPs, {flops_text(dense.params)} parameters{tested}"


def _fact_lines(run: PreparedRun) -> list[str]:
    config, task = run.config, run.task
    targets = ", ".join(f"{asked} ({_limit_text(budget)})" for asked, budget in run.budgets.items())
    # Every strategy of a method gets the same reason.
    refused = {(standing.method, standing.target): standing.reason for standing in run.refused}
    # A task of a user's own may not say how many inputs it judges on.
    counts = {"to search with": task.count_inputs("search"), "to test": task.count_inputs("test")}
    held_out = [f"{count:,} {purpose}" for purpose, count in counts.items() if count]
    metrics = (
        []
        if task.metrics == (ACCURACY,)
        else [f"metric    {'; '.join(metric.with_direction for metric in task.metrics)}"]
    )
    return [
        *metrics,
        f"targets   {targets}",
        *(f"method    {_method_text(method)}" for method in run.methods),
        *(f"left out  {method} at {target}: {reason}" for (method, target), reason in refused.items()),
        # Below the methods, whose sites they speak of.
        *(
            [f"under     {shlex.join(config.constraints.option_words())}"]
            if config.constraints.constrains_sites
            else []
        ),
        f"data      {', '.join([f'{plural(len(task.tune), task.noun)} to fine-tune on', *held_out])}",
        f"work      {_work_text(run)}",
        f"where     {task.device}, {resources_text(run.resources)}",
    ]


def _run_notes(run: PreparedRun) -> list[str]:
    """What the user should know of the network, the weights and the data before any work is paid for."""
    task, notes = run.task, list[str]()
    if run.config.task.weights is None and run.config.task.task is None:
        weights = setting_name("weights")
        notes.append(f"no {weights}: this compresses an untrained network; `train` makes a dense baseline")
    # Every method is bound to the same network, with the same example.
    if uncounted := uncounted_flops(task.network, run.methods[0].compressor.example):
        notes.append(f"{flops_text(uncounted)} {UNCOUNTED}")
    for method in run.methods:
        shares = dense_shares(method.compressor, method.choice.left_dense)
        if (total := sum(share.share for share in shares)) > 0.5:
            largest = dense_share_text(**asdict(shares[0]))
            notes.append(f"{method.config.method} leaves {100 * total:.3g}% of the FLOPs dense (see `plan`): {largest}")
    return [*notes, *drift_notes(task), *task.notices]


def announce_start(run: PreparedRun, console: Console) -> None:
    """What strategies that sample begin with."""
    for method in run.methods:
        outcomes, lenders = method.problem.known_candidates, method.problem.lenders
        if outcomes:
            metric = run.task.metric
            best = metric.value_text(max((outcome.score for outcome in outcomes), key=metric.worth))
            candidates = plural(len(outcomes), "known candidate")
            words = f"sampling begins with {candidates} near the targets (best {best}), at no cost"
            print_line(console, f"start     {words}")
        if lenders:
            print_line(console, f"start     sampling begins with the first points of {', '.join(lenders)}")


def _method_text(method: PreparedMethod) -> str:
    names = method.config.strategies
    strategies = f"{'strategy' if len(names) == 1 else 'strategies'} {', '.join(names)}" if names else "no strategy"
    return f"{method.config.method}, {plural(len(method.problem.sites), 'site')}; {strategies}"


def _work_text(run: PreparedRun) -> str:
    """How much there is to do at most: the ledger may know some of it."""
    config, counts = run.config, expected_candidates(run)
    scan = f"{plural(counts['scan'], 'measurement')} without training, " if counts["scan"] else ""
    candidates = f"{plural(counts['search'], 'candidate')} of {plural(config.recipe.epochs, 'epoch')}"
    finalists = plural(counts["final"] // config.final_seeds, "finalist")
    seeds = plural(config.final_seeds, "seed")
    tested = f"{finalists} of {plural(config.final_recipe.epochs, 'epoch')} with {seeds} each"
    return (
        f"{scan}{_rungs_text(config, counts) or _at_most_text(run)}{candidates}, "
        f"{tested if counts['final'] else 'no finalists'}, less what the ledger knows"
    )


def _rungs_text(config: RunConfig, counts: Mapping[Stage, int]) -> str:
    """What is judged on the way; how many get to the end is for their scores to say."""
    if not counts["rung"]:
        return ""
    return f"about {plural(counts['rung'], 'rung')} of {_join_or(config.rungs[:-1])} epochs, about "


def _at_most_text(run: PreparedRun) -> str:
    """Whether there may be fewer: contenders that come to the same are tried once."""
    names = {name for method in run.methods for name in method.config.strategies}
    return "up to " if any(find_strategy(name)[0].candidates > 1 for name in names) else ""


def _join_or(epochs: Sequence[float]) -> str:
    *first, last = (f"{count:g}" for count in epochs)
    return f"{', '.join(first)} or {last}" if first else last


def _limit_text(budget: Budget) -> str:
    """In FLOPs alone without saying so, as everywhere."""
    return flops_text(budget.limits["flops"]) if set(budget.limits) == {"flops"} else budget.limits_text()


def resources_text(resources: Resources) -> str:
    """Who does the work: `2 workers on Ray`."""
    if not resources.workers:
        return "in this process"
    return f"{plural(resources.workers, 'worker')} on Ray"
