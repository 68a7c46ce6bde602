"""The files of a run: tables, report, picture."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from methods.base import Centroids
from models.errors import commonest_reason
from models.wording import plural
from search.allocation.allocate import MISSED, too_coarse
from search.allocation.targets import TOLERANCE
from search.engine.outcomes import MethodOutcomes, RunOutcomes
from search.latency.predicted import FinalLatency
from search.report.facts import run_facts
from search.report.page import write_report
from search.report.picture import write_picture
from search.report.ratio_bars import Ratios
from search.report.view import RunView
from search.results.run_tables import RunTables
from search.results.tables import CandidateEntry, short_ids
from search.settings.command import export_command, resume_command, run_command
from search.strategies.problem import Problem
from search.strategies.sensitivity import scan_points

Item = TypeVar("Item")


@dataclass(frozen=True)
class Written:
    """What a run left, for the last screen."""

    view: RunView
    files: list[Path]


def write_outputs(outcomes: RunOutcomes, latencies: Mapping[str, FinalLatency] | None = None) -> Written:
    """Write `candidates.csv`, `pareto.csv`, `report.html` and `pareto.png` into the run's folder."""
    view, folder = run_view(outcomes, latencies or {}), outcomes.prepared.config.folder
    paths = view.tables.write(folder)
    write_picture(folder / "pareto.png", view)
    write_report(folder / "report.html", view)
    return Written(view, [folder / "report.html", folder / "pareto.png", *paths])


def run_view(outcomes: RunOutcomes, latencies: Mapping[str, FinalLatency]) -> RunView:
    """Everything of a run that its report and picture show."""
    run, methods = outcomes.prepared, outcomes.methods
    by_method = [(result, method_entries(result)) for result in methods]
    entries = [entry for _, method in by_method for entry in method]
    ids = short_ids(entry.key for entry in entries)
    scans = [scan for result in methods if (scan := _scan_table(result)) is not None]
    predicted = [_predicted_table(result.prepared.problem) for result in methods]
    tables = RunTables.from_entries(entries, run.dense, latencies)
    view = RunView(
        title=f"{run.title}, {', '.join(method.config.method for method in run.methods)}",
        created=time.strftime("%Y-%m-%d %H:%M %Z"),
        command=run_command(run.config),
        resume_command=resume_command(run.config),
        export_command=None if tables.export_pick is None else export_command(run.config, tables.export_pick),
        facts=run_facts(outcomes),
        dense=run.dense,
        tables=tables,
        allocations=_merge_mappings(
            _site_ratios(result, method, ids) for result, method in by_method
        ),
        sensitivity=pd.concat(scans, ignore_index=True) if scans else None,
        predicted=pd.concat(predicted, ignore_index=True),
        skipped=_left_dense(outcomes),
        targets=[(target, budget.limits.get("flops")) for target, budget in run.budgets.items()],
        limits={target: budget.limits_text() for target, budget in run.budgets.items()},
        remarks=[
            *_refusal_remarks(outcomes),
            *(_of_method(outcomes, result, remark)
              for result, method in by_method
              for remark in [*_loose_remarks(result, method), *_failed_scans(result)]),
        ],
        latencies=_merge_mappings(
            latencies_in_words(result, method, latencies, ids)
            for result, method in by_method
        ),
    )  # fmt: skip
    return replace(view, centroids=_answer_codebooks(by_method, view, ids))


def _merge_mappings(mappings: Iterable[Mapping[str, Item]]) -> dict[str, Item]:
    """The mappings of all methods as one."""
    return {name: item for mapping in mappings for name, item in mapping.items()}


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


def method_entries(result: MethodOutcomes) -> list[CandidateEntry]:
    """Searched and final candidates in a stable order: by stage, target, strategy, then key."""
    limits = {target: budget.limits.get("flops") for target, budget in result.prepared.targets}
    entries = [
        CandidateEntry(
            key=result.candidate_key(proposal.candidate),
            stage=proposal.stage,
            strategy=proposal.strategy,
            target=proposal.target,
            target_flops=limits[proposal.target],
            candidate=proposal.candidate,
            outcome=outcome,
        )
        for proposal, outcome in result.seen
        if proposal.stage != "scan" and proposal.target is not None
    ]
    # Workers finish in any order: sorted, the same search always leaves the same tables.
    order, stages = list(limits), ("search", "rung", "final")
    return sorted(entries, key=lambda e: (stages.index(e.stage), order.index(e.target), e.strategy, e.key))


def latencies_in_words(
    result: MethodOutcomes,
    entries: list[CandidateEntry],
    latencies: Mapping[str, FinalLatency],
    ids: Mapping[str, str],
) -> dict[str, str]:
    """Short id of each candidate with a latency -> its figures, and by how much a measured one misses its target."""
    return {
        ids[entry.key]: latencies[entry.key].figures_text({term.measure: term for term in entry.target.terms})
        for entry in entries
        if entry.key in latencies
    }


def _loose_remarks(result: MethodOutcomes, entries: list[CandidateEntry]) -> list[str]:
    """Of targets that no candidate meets within the tolerance, and of finalists that lie further below theirs."""
    remarks = list[str]()
    for target, budget in result.prepared.targets:
        judged = [entry for entry in entries if entry.target == target and entry.outcome.status == "ok"]
        is_met = {entry.key: budget.is_met(result.prepared.levels(entry.allocation)) for entry in judged}
        if judged and not any(is_met.values()):
            remarks.append(f"target {target}: {MISSED[too_coarse(result.prepared.problem.sites, budget)]}")
            continue
        loose = {entry.strategy for entry in judged if entry.stage == "final" and not is_met[entry.key]}
        remarks += [
            f"target {target}: {strategy}'s finalist lies more than {TOLERANCE:.1%} of the dense figure below it; "
            "none that meets it closely ranked higher"
            for strategy in sorted(loose)
        ]
    return remarks


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


def _site_ratios(result: MethodOutcomes, entries: list[CandidateEntry], ids: Mapping[str, str]) -> dict[str, Ratios]:
    """Per candidate how strongly each site is compressed, and its setting in words."""
    compressor = result.prepared.compressor
    ratios: dict[str, Ratios] = {}
    for entry in entries:
        if entry.outcome.status == "ok":
            levels = zip(compressor.sites, compressor.levels(entry.allocation), strict=True)
            ratios[ids[entry.key]] = {
                site.name: (site.strengths[level], repr(site.settings[level])) for site, level in levels
            }
    return ratios


def _answer_codebooks(
    by_method: list[tuple[MethodOutcomes, list[CandidateEntry]]], view: RunView, ids: Mapping[str, str]
) -> dict[str, list[Centroids]]:
    """The codebooks of each target's answer."""
    # Taken from the entries, not from the table: its allocation is text.
    candidates = {
        ids[entry.key]: (result.prepared.compressor, entry) for result, entries in by_method for entry in entries
    }
    answers = [best.record["candidate"] for target, _ in view.targets if (best := view.tables.best(target))]
    codebooks: dict[str, list[Centroids]] = {}
    for short_id in answers:
        compressor, entry = candidates[short_id]
        if compressor.info.has_centroids:
            codebooks[short_id] = compressor.centroids(compressor.compress(entry.allocation))
    return codebooks


def _scan_table(result: MethodOutcomes) -> pd.DataFrame | None:
    """The scan as measured, one line per site and setting."""
    method = result.prepared
    scanned = {proposal.candidate: outcome for proposal, outcome in result.seen if proposal.stage == "scan"}
    if not scanned:
        return None
    records = []
    for point in scan_points(method.problem.scanned_sites, method.config.scan_levels):
        outcome = scanned.get(method.problem.scan_candidate(point.site, point.level))
        if outcome is None or outcome.score is None:
            continue
        site = method.problem.scanned_sites[point.site]
        records.append(
            {
                "method": method.config.method,
                "site": site.name,
                "setting": repr(site.settings[point.level]),
                "strength": site.strengths[point.level],
                "score": outcome.score,
                "loss": outcome.loss,
                "drift": outcome.drift,
                "images": outcome.images,
            }
        )
    return pd.DataFrame(records) if records else None


def _predicted_table(problem: Problem) -> pd.DataFrame:
    """What the method predicts of every setting of its sites but dense; no lines if it predicts nothing."""
    columns = ["method", "site", "setting", "strength", "damage"]
    rows = [
        (problem.method, site.name, repr(setting), strength, damage)
        for site in problem.sites
        if problem.predicts_damages
        for setting, strength, damage in list(zip(site.settings, site.strengths, site.damages, strict=True))[1:]
    ]
    return pd.DataFrame(rows, columns=columns)
