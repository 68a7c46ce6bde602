"""The first screen of a search: what will be done and where; how long it takes, only measured paces tell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from rich.console import Console

from methods.graph.trace import uncounted_flops
from models.wording import plural
from search.allocation.budget import Budget
from search.allocation.targets import flops_text
from search.dispatch.contract import Resources
from search.engine.estimate import expected_candidates
from search.engine.prepare import PreparedRun
from search.engine.prepare_method import PreparedMethod
from search.judge.drift import SEEN
from search.settings.config import RunConfig
from search.strategies.contract import Stage
from search.strategies.registry import find_strategy
from search.terminal.console import UNCOUNTED, say


def announce_search(run: PreparedRun, console: Console) -> None:
    """The first screen: what will be done and where."""
    config, task, counts, dense = run.config, run.task, expected_candidates(run), run.dense
    (method,) = run.methods
    lines = [
        f"{run.title}: {flops_text(dense.flops)} FLOPs, {flops_text(dense.params)} parameters"
        + ("" if dense.test_accuracy is None else f", {dense.test_accuracy:.2%} on the test set"),
        f"targets   {', '.join(f'{t.asked} ({_limit(budget)})' for t, budget in method.targets)}",
        f"method    {config.method}, {plural(len(method.problem.sites), 'site')}; "
        f"{'strategy' if len(config.strategies) == 1 else 'strategies'} {', '.join(config.strategies)}",
        f"data      {plural(len(task.tune), 'image')} to fine-tune on, {len(task.search):,} to search with, "
        f"{len(task.test):,} to test",
        f"work      {_work(config, counts, _climbing(run, counts) or _most(method))}",
        f"where     {task.device}, {where(run.resources)}",
    ]
    if config.constraints.constrains_sites:
        lines.insert(3, f"under     {shlex.join(config.constraints.option_words())}")
    if config.task.weights is None:
        lines.append("note      no --weights: this compresses an untrained network; `train` makes a dense baseline")
    if uncounted := uncounted_flops(task.network, method.compressor.example):
        lines.append(f"note      {flops_text(uncounted)} {UNCOUNTED}")
    if task.seen:
        lines.append(f"note      {SEEN}")
    lines += [f"note      {notice}" for notice in task.notices]
    for line in lines:
        say(console, line, "bold" if line is lines[0] else None)


def announce_comparison(run: PreparedRun, console: Console) -> None:
    """The first screen: what will be done, what cannot be, and where."""
    config, counts, dense = run.config, expected_candidates(run), run.dense
    tested = "" if dense.test_accuracy is None else f", {dense.test_accuracy:.2%} on the test set"
    say(console, f"{run.title}: {flops_text(dense.flops)} FLOPs{tested}", "bold")
    for method in run.methods:
        strategies = ", ".join(method.config.strategies) or "nothing"
        say(console, f"method    {method.config.method}: {strategies} at {', '.join(method.limits)}")
    for standing in {(refused.method, refused.target): refused for refused in run.refused}.values():
        say(console, f"left out  {standing.method} at {standing.target}: {standing.reason}")
    say(console, f"work      {_work(config, counts, 'up to ')}, less what the ledger knows")
    say(console, f"where     {run.task.device}, {where(run.resources)}")
    for notice in run.task.notices:
        say(console, f"note      {notice}")


def announce_start(run: PreparedRun, console: Console) -> None:
    """What strategies that sample begin with."""
    for method in run.methods:
        outcomes, lenders = method.problem.known_candidates, method.problem.lenders
        if outcomes:
            best = max(outcome.accuracy for outcome in outcomes)
            known = plural(len(outcomes), "known candidate")
            say(console, f"start     sampling begins with {known} near the targets (best {best:.2%}), at no cost")
        if lenders:
            say(console, f"start     sampling begins with the first points of {', '.join(lenders)}")


def _work(config: RunConfig, counts: Mapping[Stage, int], bounds: str) -> str:
    """How much there is to do; `bounds` says of the candidates whether there may be fewer."""
    scan = f"{plural(counts['scan'], 'measurement')} without training, " if counts["scan"] else ""
    candidates = f"{plural(counts['search'], 'candidate')} of {plural(config.recipe.epochs, 'epoch')}"
    finalists = plural(counts["final"] // config.final_seeds, "finalist")
    seeds = plural(config.final_seeds, "seed")
    tested = f"{finalists} of {plural(config.final_recipe.epochs, 'epoch')} with {seeds} each"
    return f"{scan}{bounds}{candidates}, {tested if counts['final'] else 'no finalists'}"


def _climbing(run: PreparedRun, counts: Mapping[Stage, int]) -> str:
    """What is judged on the way; how many get to the end is for their accuracy to say."""
    on_the_way = run.config.rungs[:-1]
    return f"about {plural(counts['rung'], 'rung')} of {_either(on_the_way)} epochs, about " if on_the_way else ""


def _most(method: PreparedMethod) -> str:
    """Whether there may be fewer: contenders that come to the same are tried once."""
    return "up to " if any(find_strategy(name)[0].candidates > 1 for name in method.config.strategies) else ""


def _either(epochs: Sequence[float]) -> str:
    *most, last = (f"{each:g}" for each in epochs)
    return f"{', '.join(most)} or {last}" if most else last


def _limit(budget: Budget) -> str:
    """In FLOPs alone without saying so, as everywhere."""
    return flops_text(budget.limits["flops"]) if set(budget.limits) == {"flops"} else budget.limits_text()


def where(resources: Resources) -> str:
    """Who does the work: `2 workers on Ray`."""
    if not resources.workers:
        return "in this process"
    return f"{plural(resources.workers, 'worker')} on Ray"
