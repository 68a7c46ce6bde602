"""Latencies of the networks that answer a target of latency, measured once the search is over; kept as `latency.json`.

The search predicts a candidate's latency from a table of its layers' times; here the whole network is run.
"""

from __future__ import annotations

import json

from methods.base import Allocation
from search.allocation.budget import LATENCY
from search.engine.finalists import best_candidates
from search.engine.outcomes import MethodOutcomes, RunOutcomes
from search.files.atomic import atomic_write
from search.latency.check import FILE, CheckedLatency, check_prediction, read_latencies
from search.latency.progress import Say
from search.report.outputs import method_entries
from search.results.tables import CandidateEntry


def measure_finals(outcomes: RunOutcomes, say: Say) -> dict[str, CheckedLatency]:
    """Latency by key of every finalist (or best candidate, without finalists) for a target that asks for it.

    Latencies in the run's folder that were measured on the same device with as many threads are not measured again.
    """
    answers = [
        (result, answer) for result in outcomes.methods if result.complete for answer in _entries_to_measure(result)
    ]
    if not answers:
        return {}
    path = outcomes.prepared.config.folder / FILE
    recorded, latencies = read_latencies(path), dict[str, CheckedLatency]()
    say("measuring the chosen networks whole, dense and compressed in turns ...")
    # Seeds of a finalist differ in their weights alone, which take the same time.
    by_network: dict[tuple[str, Allocation], CheckedLatency] = {}
    for result, answer in answers:
        network = (answer.candidate.method, answer.allocation)
        valid = by_network.get(network) or _still_valid(result, recorded.get(answer.key))
        latency = valid or _measure_network(result, answer)
        latencies[answer.key] = by_network[network] = latency
    fields = {key: latency.model_dump() for key, latency in latencies.items()}
    atomic_write(path, json.dumps(fields, indent=2) + "\n")
    return latencies


def _entries_to_measure(result: MethodOutcomes) -> list[CandidateEntry]:
    """The finalists of the targets that ask for latency; without any, the best of what was searched."""
    targets = {target for target, _ in result.prepared.targets if LATENCY in target.measures}
    judged = [entry for entry in method_entries(result) if entry.target in targets and entry.outcome.status == "ok"]
    finalists = [entry for entry in judged if entry.stage == "final"]
    best = {result.candidate_key(proposal.candidate) for proposal in best_candidates(result.seen, 1)}
    return finalists or [entry for entry in judged if entry.key in best]


def _measure_network(result: MethodOutcomes, answer: CandidateEntry) -> CheckedLatency:
    method = result.prepared
    assert method.table is not None
    return check_prediction(method.compressor, method.compressor.levels(answer.allocation), method.table)


def _still_valid(result: MethodOutcomes, recorded: CheckedLatency | None) -> CheckedLatency | None:
    """A recorded latency, unless it is of another device or number of threads, or beside another prediction."""
    table = result.prepared.table
    if recorded is None or table is None or table.dense_nanoseconds != round(1e6 * recorded.predicted_dense_ms):
        return None
    same = (recorded.threads, recorded.batch) == (table.where.threads, table.where.batch)
    return recorded if same and table.where.device in recorded.device else None
