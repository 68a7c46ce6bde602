"""The first screen of a search: what will be done and where; how long it takes, only measured paces tell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from rich.console import Console

from methods.graph.trace import uncounted_flops
from models.settings import setting_name
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
from search.terminal.console import UNCOUNTED, print_line


def announce_search(run: PreparedRun, console: Console) -> None:
    """The first screen: what will be done and where."""
    config, task, counts, dense = run.config, run.task, expected_candidates(run), run.dense
    (method,) = run.methods
    screen = [
        f"{run.title}: {flops_text(dense.flops)} FLOPs, {flops_text(dense.params)} parameters"
        + ("" if dense.test_accuracy is None else f", {dense.test_accuracy:.2%} on the test set"),
        f"targets   {', '.join(f'{t.asked} ({_limit_text(budget)})' for t, budget in method.targets)}",
        f"method    {config.method}, {plural(len(method.problem.sites), 'site')}; "
        f"{'strategy' if len(config.strategies) == 1 else 'strategies'} {', '.join(config.strategies)}",
        f"data      {plural(len(task.tune), 'image')} to fine-tune on, {len(task.search):,} to search with, "
        f"{len(task.test):,} to test",
        f"work      {_work_text(config, counts, _rungs_text(run, counts) or _at_most_text(method))}",
        f"where     {task.device}, {resources_text(run.resources)}",
    ]
    # Below the method, whose sites they speak of.
    if config.constraints.constrains_sites:
        screen.insert(3, f"under     {shlex.join(config.constraints.option_words())}")
    if config.task.weights is None:
        note = f"no {setting_name('weights')}: this compresses an untrained network; `train` makes a dense baseline"
        screen.append(f"note      {note}")
    if uncounted := uncounted_flops(task.network, method.compressor.example):
        screen.append(f"note      {flops_text(uncounted)} {UNCOUNTED}")
    if task.seen:
        screen.append(f"note      {SEEN}")
    screen += [f"note      {notice}" for notice in task.notices]
    for text in screen:
        print_line(console, text, "bold" if text is screen[0] else None)


def announce_comparison(run: PreparedRun, console: Console) -> None:
    """The first screen: what will be done, what cannot be, and where."""
    config, counts, dense = run.config, expected_candidates(run), run.dense
    tested = "" if dense.test_accuracy is None else f", {dense.test_accuracy:.2%} on the test set"
    print_line(console, f"{run.title}: {flops_text(dense.flops)} FLOPs{tested}", "bold")
    for method in run.methods:
        strategies = ", ".join(method.config.strategies) or "nothing"
        print_line(console, f"method    {method.config.method}: {strategies} at {', '.join(map(str, method.limits))}")
    for standing in {(refused.method, refused.target): refused for refused in run.refused}.values():
        print_line(console, f"left out  {standing.method} at {standing.target}: {standing.reason}")
    print_line(console, f"work      {_work_text(config, counts, 'up to ')}, less what the ledger knows")
    print_line(console, f"where     {run.task.device}, {resources_text(run.resources)}")
    for notice in run.task.notices:
        print_line(console, f"note      {notice}")


def announce_start(run: PreparedRun, console: Console) -> None:
    """What strategies that sample begin with."""
    for method in run.methods:
        outcomes, lenders = method.problem.known_candidates, method.problem.lenders
        if outcomes:
            best = max(outcome.accuracy for outcome in outcomes)
            candidates = plural(len(outcomes), "known candidate")
            words = f"sampling begins with {candidates} near the targets (best {best:.2%}), at no cost"
            print_line(console, f"start     {words}")
        if lenders:
            print_line(console, f"start     sampling begins with the first points of {', '.join(lenders)}")


def _work_text(config: RunConfig, counts: Mapping[Stage, int], bounds: str) -> str:
    """How much there is to do; `bounds` says of the candidates whether there may be fewer."""
    scan = f"{plural(counts['scan'], 'measurement')} without training, " if counts["scan"] else ""
    candidates = f"{plural(counts['search'], 'candidate')} of {plural(config.recipe.epochs, 'epoch')}"
    finalists = plural(counts["final"] // config.final_seeds, "finalist")
    seeds = plural(config.final_seeds, "seed")
    tested = f"{finalists} of {plural(config.final_recipe.epochs, 'epoch')} with {seeds} each"
    return f"{scan}{bounds}{candidates}, {tested if counts['final'] else 'no finalists'}"


def _rungs_text(run: PreparedRun, counts: Mapping[Stage, int]) -> str:
    """What is judged on the way; how many get to the end is for their accuracy to say."""
    on_the_way = run.config.rungs[:-1]
    return f"about {plural(counts['rung'], 'rung')} of {_join_or(on_the_way)} epochs, about " if on_the_way else ""


def _at_most_text(method: PreparedMethod) -> str:
    """Whether there may be fewer: contenders that come to the same are tried once."""
    return "up to " if any(find_strategy(name)[0].candidates > 1 for name in method.config.strategies) else ""


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
