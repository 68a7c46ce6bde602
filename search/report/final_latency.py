"""Latencies of the networks that answer a target, once the search is over.

The search predicts a candidate's latency from a table of its layers' times. On the device of the run the whole network
is measured now. On other devices, whose tables were given, nothing can be measured: their predictions are told.
"""

from __future__ import annotations

import json
from collections.abc import Set

from methods.base import Allocation
from search.allocation.targets import LATENCY, Target
from search.engine.finalists import best_candidates
from search.engine.outcomes import MethodOutcomes, RunOutcomes
from search.files.atomic import atomic_write
from search.latency.check import FILE, CheckedLatency, check_prediction, read_latencies
from search.latency.device_table import DeviceTable
from search.latency.predicted import FILE as PREDICTED_FILE
from search.latency.predicted import FinalLatency, PredictedLatency, predict_latency
from search.latency.progress import Say
from search.latency.table import LatencyTable
from search.report.outputs import method_entries
from search.results.tables import CandidateEntry


def final_latencies(outcomes: RunOutcomes, say: Say) -> dict[str, FinalLatency]:
    """Latencies by key of every finalist (or best candidate, without finalists): here, and on devices with tables."""
    measured, predicted = measure_finals(outcomes, say), predict_finals(outcomes)
    return {key: FinalLatency(measured.get(key), predicted.get(key, ())) for key in {**measured, **predicted}}


def predict_finals(outcomes: RunOutcomes) -> dict[str, tuple[PredictedLatency, ...]]:
    """Predictions by key of every answer, on each device with a table; kept as `device_latency.json`."""
    predictions = {}
    for result in outcomes.methods:
        method = result.prepared
        tables = [table for table in method.tables.values() if isinstance(table, DeviceTable)]
        for answer in _answers(result, {target for target, _ in method.targets}) if tables and result.complete else []:
            levels = method.compressor.levels(answer.allocation)
            predictions[answer.key] = tuple(predict_latency(table, levels) for table in tables)
    if predictions:
        fields = {key: [item.model_dump() for item in items] for key, items in predictions.items()}
        atomic_write(outcomes.prepared.config.folder / PREDICTED_FILE, json.dumps(fields, indent=2) + "\n")
    return predictions


def measure_finals(outcomes: RunOutcomes, say: Say) -> dict[str, CheckedLatency]:
    """Latency by key of every answer to a target that asks for the latency of this device; kept as `latency.json`.

    Latencies in the run's folder that were measured on the same device with as many threads are not measured again.
    """
    answers = []
    for result in outcomes.methods:
        targets = {target for target, _ in result.prepared.targets if LATENCY in target.measures}
        answers += [(result, answer) for answer in _answers(result, targets) if result.complete]
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


def _answers(result: MethodOutcomes, targets: Set[Target]) -> list[CandidateEntry]:
    """The finalists of these targets; without any, the best of what was searched."""
    judged = [entry for entry in method_entries(result) if entry.target in targets and entry.outcome.status == "ok"]
    finalists = [entry for entry in judged if entry.stage == "final"]
    best = {result.candidate_key(proposal.candidate) for proposal in best_candidates(result.seen, 1)}
    return finalists or [entry for entry in judged if entry.key in best]


def _measure_network(result: MethodOutcomes, answer: CandidateEntry) -> CheckedLatency:
    method = result.prepared
    table = method.tables[LATENCY]
    assert isinstance(table, LatencyTable)
    return check_prediction(method.compressor, method.compressor.levels(answer.allocation), table)


def _still_valid(result: MethodOutcomes, recorded: CheckedLatency | None) -> CheckedLatency | None:
    """A recorded latency, unless it is of another device or number of threads, or beside another prediction."""
    table = result.prepared.tables.get(LATENCY)
    if (
        recorded is None
        or not isinstance(table, LatencyTable)
        or table.dense_nanoseconds != round(1e6 * recorded.predicted_dense_ms)
    ):
        return None
    same = (recorded.threads, recorded.batch) == (table.where.threads, table.where.batch)
    return recorded if same and table.where.device in recorded.device else None
