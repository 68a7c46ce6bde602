"""What the command line shows of plans and trainings; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from models.task import TaskConfig
from search.allocation.allocate import MISSED
from search.allocation.targets import MEASURES, flops_text
from search.candidate import Recipe
from search.strategies.contract import strategy
from search.terminal.console import UNCOUNTED, say


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """A plan as a table: every site with its setting, then the costs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    table.add_column("setting")
    for site, setting in plan["allocation"].items():
        table.add_row(Text(site), ", ".join(f"{knob}={value}" for knob, value in setting.items()) or "dense")
    console.print(table)
    for layer, reason in plan["left_dense"].items():
        say(console, f"{layer} stays dense: {reason}", "dim")
    target, spans = plan["target"], plan["reachable"]
    for name, span in ({"flops": spans} if "min_kept" in spans else spans).items():
        _say_span(plan, name, span, console)
    dense, achieved = plan["dense"], plan["achieved"]
    say(
        console,
        "; ".join(
            f"{MEASURES[name].text(dense[name])} -> {MEASURES[name].text(achieved[name])}"
            for name in ("flops", "params", "bytes")
            if name not in target
        ),
    )
    if "latency" in plan:
        say(console, f"latency {plan['latency']['words']}")
    if len(target["binding"]) < len([name for name in MEASURES if name in target]):
        say(console, f"what binds: {', '.join(target['binding'])}")
    if plan["uncounted_flops"]:
        say(console, f"{flops_text(plan['uncounted_flops'])} {UNCOUNTED}")
    for notice in plan["notices"]:
        say(console, f"note: {notice}")
    if not target["met"]:
        say(console, MISSED[target["too_coarse"]])
    if (most := strategy(plan["strategy"])[0].candidates) > 1:
        say(console, f"this is its own solution; a search tries it against up to {most - 1} others")


def _say_span(plan: Mapping[str, Any], name: str, span: Mapping[str, float], console: Console) -> None:
    """One measure that the target asks of: dense, achieved, asked and reachable."""
    text, dense, achieved = MEASURES[name].text, plan["dense"], plan["achieved"]
    say(
        console,
        f"{text(dense[name])} -> {text(achieved[name])}, kept {achieved[f'kept_{name}']:.4f} for at most "
        f"{text(plan['target'][name])}; reachable: kept {span['min_kept']:.4f} to {span['max_kept']:.4g}",
    )


def trained(
    config: TaskConfig, recipe: Recipe, out: Path, *, console: Console, **options: Any
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Train a dense baseline under a progress bar; its accuracies, and what there is to know of how data were read.

    Args:
        options: as `baseline.train_baseline` takes them.
    """
    from search.judge import baseline

    notices: list[str] = []

    def show_notice(notice: str) -> None:
        notices.append(notice)
        say(console, f"note      {notice}")

    baseline.check_weights_file(out, force=bool(options.get("force")))  # before the bar is drawn
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with RichProgress(*columns, console=console) as bar:
        job = bar.add_task("training")
        accuracies = baseline.train_baseline(
            config,
            recipe,
            out,
            **options,
            on_step=lambda done, steps: bar.update(job, completed=done, total=steps),
            on_notice=show_notice,
        )
    say(console, f"{out}: {accuracies['search']:.2%} on the search split, {accuracies['test']:.2%} on the test set")
    return accuracies, tuple(notices)
