"""The files of a run: tables, report, picture."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from methods.base import Allocation, Centroids
from models.errors import commonest_reason
from models.user.spec_names import data_name, network_name
from search.allocation.allocate import MISSED, too_coarse
from search.allocation.budget import LATENCY
from search.allocation.targets import TOLERANCE
from search.engine.session import Result, key_of, title
from search.judge.drift import SEEN
from search.latency.check import Checked
from search.report.page import write_report
from search.report.picture import write_picture
from search.report.ratio_bars import Ratios
from search.report.view import RunView
from search.results.tables import Row, allocation_of, candidates_frame, finals_frame, pareto, short_ids, write_csv
from search.settings.command import export_command, resume_command
from search.strategies.sensitivity import scan_points


@dataclass(frozen=True)
class Written:
    """What a run left, for the last screen."""

    view: RunView
    files: list[Path]


def write_outputs(result: Result, command: str, checked: Mapping[str, Checked] | None = None) -> Written:
    """Write `candidates.csv`, `pareto.csv`, `report.html` and `pareto.png` into the run's folder."""
    view, folder = run_view(result, command, checked or {}), result.setup.config.folder
    files = [folder / name for name in ("report.html", "pareto.png", "pareto.csv", "candidates.csv", "finalists.csv")]
    write_csv(view.frame, folder / "candidates.csv")
    write_csv(view.front, folder / "pareto.csv")
    write_csv(view.finals, folder / "finalists.csv")
    write_picture(folder / "pareto.png", view)
    write_report(folder / "report.html", view)
    return Written(view, files)


def run_view(result: Result, command: str, checked: Mapping[str, Checked]) -> RunView:
    """Everything of a run that its report and picture show."""
    setup, rows = result.setup, rows_of(result)
    frame = candidates_frame(rows, setup.dense)
    view = RunView(
        title=f"{title(setup)}, {setup.config.method}",
        created=time.strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        resume_command=resume_command(setup.config),
        export_command=export_command(setup.config),
        facts=_facts(result),
        dense=setup.dense,
        frame=frame,
        front=pareto(frame),
        finals=finals_frame(rows, setup.dense, checked),
        allocations=_allocations(result, rows),
        sensitivity=_sensitivity(result),
        skipped=setup.choice.left_dense,
        targets=[(target.asked, budget.limits.get("flops")) for target, budget in setup.targets],
        limits={target.asked: budget.words() for target, budget in setup.targets},
        remarks=[*_loose(result, rows), *_failed_scans(result)],
        latencies=latencies_in_words(result, rows, checked),
    )
    return replace(view, centroids=_centroids(result, view))


def rows_of(result: Result) -> list[Row]:
    """Searched and final candidates in a stable order: by stage, target, strategy, then key."""
    limits = {target.asked: budget.limits.get("flops") for target, budget in result.setup.targets}
    rows = [
        Row(
            key=key_of(result, proposal.candidate),
            stage=proposal.stage,
            method=proposal.candidate.method,
            strategy=proposal.strategy,
            target=str(proposal.target),
            target_flops=limits.get(str(proposal.target)),
            candidate=proposal.candidate,
            outcome=outcome,
        )
        for proposal, outcome in result.seen
        if proposal.stage != "scan"
    ]
    order = list(limits)
    stages = ("search", "rung", "final")
    return sorted(rows, key=lambda row: (stages.index(row.stage), order.index(row.target), row.strategy, row.key))


def latencies_in_words(result: Result, rows: list[Row], checked: Mapping[str, Checked]) -> dict[str, str]:
    """Short id of each candidate measured whole -> what was found, and by how much it misses its target."""
    ids = short_ids(row.key for row in rows)
    parts = {target.asked: part for target, _ in result.setup.targets for part in target.parts
             if part.measure == LATENCY}  # fmt: skip
    return {ids[row.key]: checked[row.key].words() + checked[row.key].missed(parts[row.target])
            for row in rows if row.key in checked and row.target in parts}  # fmt: skip


def _loose(result: Result, rows: list[Row]) -> list[str]:
    """Of targets that no candidate meets within the tolerance, and of finalists that lie further below theirs."""
    found = list[str]()
    for target, budget in result.setup.targets:
        judged = [row for row in rows if row.target == target.asked and row.outcome.status == "ok"]
        met = {row.key: budget.met(result.setup.levels(allocation_of(row))) for row in judged}
        if judged and not any(met.values()):
            found.append(f"target {target.asked}: {MISSED[too_coarse(result.setup.problem.sites, budget)]}")
            continue
        loose = {row.strategy for row in judged if row.stage == "final" and not met[row.key]}
        found += [
            f"target {target.asked}: {name}'s finalist lies more than {TOLERANCE:.1%} of the dense figure below it; "
            "none that meets it closely ranked higher"
            for name in sorted(loose)
        ]
    return found


def _failed_scans(result: Result) -> list[str]:
    scans = {
        key_of(result, proposal.candidate): outcome for proposal, outcome in result.seen if proposal.stage == "scan"
    }
    reasons = [outcome.reason or "no reason given" for outcome in scans.values() if outcome.status == "failed"]
    if not reasons:
        return []
    return [
        f"{len(reasons)} of {len(scans)} measurements of the scan failed, most often so: {commonest_reason(reasons)}"
    ]


def _allocations(result: Result, rows: list[Row]) -> dict[str, Ratios]:
    """Per candidate how strongly each site is compressed, and its setting in words."""
    ids = short_ids(row.key for row in rows)
    compressor = result.setup.compressor
    found: dict[str, Ratios] = {}
    for row in rows:
        if row.outcome.status != "ok":
            continue
        levels = compressor.levels(row.outcome.allocation or row.candidate.allocation)
        pairs = zip(compressor.sites, levels, strict=True)
        found[ids[row.key]] = {site.name: (site.strengths[level], repr(site.settings[level])) for site, level in pairs}
    return found


def _centroids(result: Result, view: RunView) -> dict[str, list[Centroids]]:
    """The codebooks of each target's answer."""
    compressor = result.setup.compressor
    if not compressor.info.has_centroids:
        return {}
    answers = [best.line for asked, _ in view.targets if (best := view.best(asked))]
    networks = {line["candidate"]: compressor.compress(Allocation.from_text(line["allocation"])) for line in answers}
    return {candidate: compressor.centroids(network) for candidate, network in networks.items()}


def _sensitivity(result: Result) -> pd.DataFrame | None:
    """The scan as measured, one line per site and setting."""
    setup = result.setup
    scanned = {p.candidate: o for p, o in result.seen if p.stage == "scan"}
    if not scanned:
        return None
    lines = []
    for point in scan_points(setup.problem.scanned, setup.config.scan_levels):
        outcome = scanned.get(setup.problem.alone(point.site, point.level))
        if outcome is None or outcome.accuracy is None:
            continue
        site = setup.problem.scanned[point.site]
        lines.append(
            {
                "method": setup.config.method,
                "site": site.name,
                "setting": repr(site.settings[point.level]),
                "strength": site.strengths[point.level],
                "accuracy": outcome.accuracy,
                "loss": outcome.loss,
                "drift": outcome.drift,
                "images": outcome.images,
            }
        )
    return pd.DataFrame(lines) if lines else None


def _facts(result: Result) -> dict[str, str]:
    setup, task = result.setup, result.setup.evaluator.task
    config = setup.config
    facts = {
        "network": network_name(config.task.network),
        "data": data_name(config.task.data),
        "images": f"fine-tune {len(task.tune)}, search {len(task.search)}, test {len(task.test)}",
        "weights": config.task.weights or "initial",
        "method": f"{config.method}, {len(setup.compressor.sites)} sites",
        "recipe": _recipe(result),
        "protocol": "search accuracy ranks candidates, drift those within its noise; only finalists meet the test set, "
        "once per seed",
        "time": f"{result.seconds:.0f} s on the clock, {_worker_seconds(result):.0f} s of the workers",
        **result.facts,
    }
    if config.constraints.given:
        facts["constraints"] = shlex.join(config.constraints.words())
    if task.seen:
        facts["note"] = SEEN
    if not result.complete:
        facts["state"] = "stopped before it was finished"
    return facts


def _recipe(result: Result) -> str:
    recipe, final = result.setup.config.recipe, result.setup.config.final_recipe
    distil = f"distilled (weight {recipe.distill_weight:g}, temperature {recipe.temperature:g})"
    return (
        f"{recipe.epochs:g} epochs, finalists {final.epochs:g}; SGD, batch {recipe.batch_size}, {recipe.schedule} "
        f"at {recipe.lr:g}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"
        + (f", {distil}" if recipe.distill_weight else "")
    )


def _worker_seconds(result: Result) -> float:
    return sum(outcome.seconds for _, outcome in result.seen)
