"""What the command line shows of plans; light to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.allocation.allocate import MISSED
from search.allocation.targets import find_measure, flops_text, measure_of
from search.strategies.registry import find_strategy
from search.terminal.console import UNCOUNTED, print_line

NAMED = 3  # layers
ALL_WIDTHS = "--round-channels 1"


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """A plan as a table: every site with its setting, then the costs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    table.add_column("setting")
    for site in plan["allocation"]:
        table.add_row(Text(site), _setting_words(plan, site))
    console.print(table)
    for share in plan["dense_shares"]:
        print_line(console, dense_share_text(**share), "dim")
    reasons = {share["reason"] for share in plan["dense_shares"]}
    for layer, reason in plan["left_dense"].items():
        if not any(reason in words for words in reasons):  # one of two methods leaves it to the other
            print_line(console, f"{layer} stays dense: {reason}", "dim")
    target, spans = plan["target"], plan["reachable"]
    # The record has the span of FLOPs alone without its name, as its readers expect it.
    for name, span in ({"flops": spans} if "min_kept" in spans else spans).items():
        _say_span(plan, name, span, console)
    dense, achieved = plan["dense"], plan["achieved"]
    print_line(
        console,
        "; ".join(
            f"{measure_of(name).figure_text(dense[name])} -> {measure_of(name).figure_text(achieved[name])}"
            for name in ("flops", "params", "bytes")
            if name not in target
        ),
    )
    if "latency" in plan:
        print_line(console, f"latency {plan['latency']['words']}")
    for device in plan.get("devices", ()):
        print_line(console, f"latency {device['words']}")
    if (step := plan.get("device_step", 1)) > 1:
        steps = f"channels come in multiples of {step}, and below in its halves, as kernels there have steps"
        print_line(console, f"{steps}; {ALL_WIDTHS} allows all")
    if len(target["binding"]) < len([name for name in target if find_measure(name)]):
        print_line(console, f"what binds: {', '.join(target['binding'])}")
    if plan["uncounted_flops"]:
        print_line(console, f"{flops_text(plan['uncounted_flops'])} {UNCOUNTED}")
    for notice in plan["notices"]:
        print_line(console, f"note: {notice}")
    if not target["met"]:
        print_line(console, MISSED[target["too_coarse"]])
    if (contenders := find_strategy(plan["strategy"])[0].candidates) > 1:
        print_line(console, f"this is its own solution; a search tries it against up to {contenders - 1} others")


def dense_share_text(share: float, layers: Sequence[str], reason: str) -> str:
    """`31.2% of the FLOPs stay dense in a, b and 3 more: the reason`."""
    more = len(layers) - NAMED
    names = ", ".join(layers[:NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{100 * share:.3g}% of the FLOPs stay dense in {names}: {reason}"


def _setting_words(plan: Mapping[str, Any], site: str) -> str:
    """`kept 0.75, 12 of 16 channels` of a site that loses channels, else the method's own knobs: `G=4, T=1`."""
    if (channels := plan["kept_channels"].get(site)) is None:
        return ", ".join(f"{knob}={value}" for knob, value in plan["allocation"][site].items()) or "dense"
    narrowed, width = channels["kept"], channels["of"]
    return "dense" if narrowed == width else f"kept {narrowed / width:.4g}, {narrowed} of {width} channels"


def _say_span(plan: Mapping[str, Any], name: str, span: Mapping[str, float], console: Console) -> None:
    """One measure that the target asks of: dense, achieved, asked and reachable."""
    text, dense, achieved = measure_of(name).figure_text, plan["dense"], plan["achieved"]
    print_line(
        console,
        f"{text(dense[name])} -> {text(achieved[name])}, kept {achieved[f'kept_{name}']:.4f} for at most "
        f"{text(plan['target'][name])}; reachable: kept {span['min_kept']:.4f} to {span['max_kept']:.4g}",
    )
