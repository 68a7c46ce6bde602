"""The files of a run: tables, report, picture."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from methods.base import Allocation, Centroids
from models.errors import commonest_reason
from models.user.spec_names import data_name, network_name
from models.wording import plural
from search.allocation.allocate import MISSED, too_coarse
from search.allocation.budget import LATENCY
from search.allocation.targets import TOLERANCE
from search.engine.outcomes import MethodOutcomes, RunOutcomes
from search.judge.drift import SEEN
from search.latency.check import CheckedLatency
from search.report.page import write_report
from search.report.picture import write_picture
from search.report.ratio_bars import Ratios
from search.report.view import RunView
from search.results.run_tables import RunTables
from search.results.tables import Row, allocation_of, short_ids
from search.settings.command import export_command, resume_command
from search.settings.config import RunConfig
from search.strategies.sensitivity import scan_points

Item = TypeVar("Item")


@dataclass(frozen=True)
class Written:
    """What a run left, for the last screen."""

    view: RunView
    files: list[Path]


def write_outputs(outcomes: RunOutcomes, command: str, checked: Mapping[str, CheckedLatency] | None = None) -> Written:
    """Write `candidates.csv`, `pareto.csv`, `report.html` and `pareto.png` into the run's folder."""
    view, folder = run_view(outcomes, command, checked or {}), outcomes.prepared.config.folder
    paths = view.tables.write(folder)
    write_picture(folder / "pareto.png", view)
    write_report(folder / "report.html", view)
    return Written(view, [folder / "report.html", folder / "pareto.png", *paths])


def run_view(outcomes: RunOutcomes, command: str, checked: Mapping[str, CheckedLatency]) -> RunView:
    """Everything of a run that its report and picture show."""
    run, methods = outcomes.prepared, outcomes.methods
    rows_by_method = [rows_of(result) for result in methods]
    rows = [row for own_rows in rows_by_method for row in own_rows]
    ids = short_ids(row.key for row in rows)
    scans = [scan for result in methods if (scan := _scan_table(result)) is not None]
    targets = {target.asked: budget for method in run.methods for target, budget in method.targets}
    view = RunView(
        title=f"{run.title}, {', '.join(method.config.method for method in run.methods)}",
        created=time.strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        resume_command=resume_command(run.config),
        export_command=export_command(run.config),
        facts=_run_facts(outcomes),
        dense=run.dense,
        tables=RunTables.from_rows(rows, run.dense, checked),
        allocations=_merge_mappings(
            _site_ratios(result, own_rows, ids) for result, own_rows in zip(methods, rows_by_method, strict=True)
        ),
        sensitivity=pd.concat(scans, ignore_index=True) if scans else None,
        skipped=_left_dense(outcomes),
        targets=[
            (target.asked, targets[target.asked].limits.get("flops"))
            for target in run.config.targets
            if target.asked in targets
        ],
        limits={target: budget.limits_text() for target, budget in targets.items()},
        remarks=[
            *_refusal_remarks(outcomes),
            *(_of_method(outcomes, result, remark)
              for result, own_rows in zip(methods, rows_by_method, strict=True)
              for remark in [*_loose_remarks(result, own_rows), *_failed_scans(result)]),
        ],
        latencies=_merge_mappings(
            latencies_in_words(result, own_rows, checked, ids)
            for result, own_rows in zip(methods, rows_by_method, strict=True)
        ),
    )  # fmt: skip
    return replace(view, centroids=_answer_codebooks(outcomes, view))


def _merge_mappings(parts: Iterable[Mapping[str, Item]]) -> dict[str, Item]:
    """The mappings of all methods as one."""
    return {name: item for part in parts for name, item in part.items()}


def _of_method(outcomes: RunOutcomes, result: MethodOutcomes, text: str) -> str:
    """What is said of a method, with its name if there are several."""
    return text if len(outcomes.methods) == 1 else f"{text} ({result.prepared.config.method})"


def _refusal_remarks(outcomes: RunOutcomes) -> list[str]:
    """What a comparison could not answer, each method and target once."""
    refused = {(standing.method, standing.target): standing.reason for standing in outcomes.prepared.refused}
    return [f"left out: {method} at {target}, {reason}" for (method, target), reason in refused.items()]


def _left_dense(outcomes: RunOutcomes) -> dict[str, str]:
    """Layer -> why it is left dense, with its method's name if there are several."""
    return {
        _of_method(outcomes, result, layer): reason
        for result in outcomes.methods
        for layer, reason in result.prepared.choice.left_dense.items()
    }


def rows_of(result: MethodOutcomes) -> list[Row]:
    """Searched and final candidates in a stable order: by stage, target, strategy, then key."""
    limits = {target.asked: budget.limits.get("flops") for target, budget in result.prepared.targets}
    rows = [
        Row(
            key=result.candidate_key(proposal.candidate),
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


def latencies_in_words(
    result: MethodOutcomes, rows: list[Row], checked: Mapping[str, CheckedLatency], ids: Mapping[str, str]
) -> dict[str, str]:
    """Short id of each candidate measured whole -> what was found, and by how much it misses its target."""
    parts = {target.asked: part for target, _ in result.prepared.targets for part in target.terms
             if part.measure == LATENCY}  # fmt: skip
    return {ids[row.key]: checked[row.key].figures_text() + checked[row.key].excess_text(parts[row.target])
            for row in rows if row.key in checked and row.target in parts}  # fmt: skip


def _loose_remarks(result: MethodOutcomes, rows: list[Row]) -> list[str]:
    """Of targets that no candidate meets within the tolerance, and of finalists that lie further below theirs."""
    found = list[str]()
    for target, budget in result.prepared.targets:
        judged = [row for row in rows if row.target == target.asked and row.outcome.status == "ok"]
        met = {row.key: budget.is_met(result.prepared.levels(allocation_of(row))) for row in judged}
        if judged and not any(met.values()):
            found.append(f"target {target.asked}: {MISSED[too_coarse(result.prepared.problem.sites, budget)]}")
            continue
        loose = {row.strategy for row in judged if row.stage == "final" and not met[row.key]}
        found += [
            f"target {target.asked}: {name}'s finalist lies more than {TOLERANCE:.1%} of the dense figure below it; "
            "none that meets it closely ranked higher"
            for name in sorted(loose)
        ]
    return found


def _failed_scans(result: MethodOutcomes) -> list[str]:
    scans = {
        result.candidate_key(proposal.candidate): outcome
        for proposal, outcome in result.seen
        if proposal.stage == "scan"
    }
    reasons = [outcome.reason or "no reason given" for outcome in scans.values() if outcome.status == "failed"]
    if not reasons:
        return []
    return [
        f"{len(reasons)} of {plural(len(scans), 'measurement')} of the scan failed, most often so: "
        f"{commonest_reason(reasons)}"
    ]


def _site_ratios(result: MethodOutcomes, rows: list[Row], ids: Mapping[str, str]) -> dict[str, Ratios]:
    """Per candidate how strongly each site is compressed, and its setting in words."""
    compressor = result.prepared.compressor
    found: dict[str, Ratios] = {}
    for row in rows:
        if row.outcome.status != "ok":
            continue
        levels = compressor.levels(row.outcome.allocation or row.candidate.allocation)
        pairs = zip(compressor.sites, levels, strict=True)
        found[ids[row.key]] = {site.name: (site.strengths[level], repr(site.settings[level])) for site, level in pairs}
    return found


def _answer_codebooks(outcomes: RunOutcomes, view: RunView) -> dict[str, list[Centroids]]:
    """The codebooks of each target's answer."""
    compressors = {result.prepared.config.method: result.prepared.compressor for result in outcomes.methods}
    answers = [best.line for target, _ in view.targets if (best := view.tables.best(target))]
    codebooks: dict[str, list[Centroids]] = {}
    for line in answers:
        compressor = compressors[line["method"]]
        if compressor.info.has_centroids:
            network = compressor.compress(Allocation.from_text(line["allocation"]))
            codebooks[line["candidate"]] = compressor.centroids(network)
    return codebooks


def _scan_table(result: MethodOutcomes) -> pd.DataFrame | None:
    """The scan as measured, one line per site and setting."""
    setup = result.prepared
    scanned = {p.candidate: o for p, o in result.seen if p.stage == "scan"}
    if not scanned:
        return None
    lines = []
    for point in scan_points(setup.problem.scanned_sites, setup.config.scan_levels):
        outcome = scanned.get(setup.problem.scan_candidate(point.site, point.level))
        if outcome is None or outcome.accuracy is None:
            continue
        site = setup.problem.scanned_sites[point.site]
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


def _run_facts(outcomes: RunOutcomes) -> dict[str, str]:
    run, task, config = outcomes.prepared, outcomes.prepared.task, outcomes.prepared.config
    worker_seconds = sum(outcome.seconds for result in outcomes.methods for _, outcome in result.seen)
    facts = {
        "network": network_name(config.task.network),
        "data": data_name(config.task.data),
        "images": f"fine-tune {len(task.tune)}, search {len(task.search)}, test {len(task.test)}",
        "weights": config.task.weights or "initial",
        "method": "; ".join(
            f"{method.config.method}, {plural(len(method.compressor.sites), 'site')}" for method in run.methods
        ),
        "recipe": _recipe_words(config),
        "protocol": "search accuracy ranks candidates, drift those within its noise; only finalists meet the test set, "
        "once per seed",
        "time": f"{outcomes.seconds:.0f} s on the clock, {worker_seconds:.0f} s of the workers",
        **outcomes.methods[0].facts,
    }
    if config.constraints.constrains_sites:
        facts["constraints"] = shlex.join(config.constraints.option_words())
    if task.seen:
        facts["note"] = SEEN
    if not outcomes.complete:
        facts["state"] = "stopped before it was finished"
    return facts


def _recipe_words(config: RunConfig) -> str:
    recipe, final = config.recipe, config.final_recipe
    distil = f"distilled (weight {recipe.distill_weight:g}, temperature {recipe.temperature:g})"
    return (
        f"{plural(recipe.epochs, 'epoch')}, finalists {final.epochs:g}; SGD, batch {recipe.batch_size}, "
        f"{recipe.schedule} at {recipe.lr:g}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"
        + (f", {distil}" if recipe.distill_weight else "")
    )
