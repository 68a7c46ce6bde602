"""The networks that answer a target of latency, measured whole once the search is over; kept as `latency.json`."""

from __future__ import annotations

import json

from methods.base import Allocation
from search.allocation.budget import LATENCY
from search.engine.finalists import best_candidates
from search.engine.outcomes import MethodOutcomes, RunOutcomes
from search.files.atomic import atomic_write
from search.latency.check import FILE, CheckedLatency, check_prediction, read_latencies
from search.latency.table import Say
from search.report.outputs import rows_of
from search.results.tables import Row, allocation_of


def measure_finals(outcomes: RunOutcomes, say: Say) -> dict[str, CheckedLatency]:
    """Key -> latency of every finalist (or best candidate, without finalists) for a target that asks for it.

    What the run's folder knows from the same device and threads is not measured again.
    """
    wanted = [(result, row) for result in outcomes.methods if result.complete for row in _answers(result)]
    if not wanted:
        return {}
    path = outcomes.prepared.config.folder / FILE
    known, found = read_latencies(path), dict[str, CheckedLatency]()
    say("measuring the chosen networks whole, dense and compressed in turns ...")
    same: dict[tuple[str, Allocation], CheckedLatency] = {}
    for result, row in wanted:
        network = (row.method, allocation_of(row))
        here = same.get(network) or _still_true(result, known.get(row.key)) or _checked(result, row)
        found[row.key] = same[network] = here
    atomic_write(path, json.dumps({key: each.model_dump() for key, each in found.items()}, indent=2) + "\n")
    return found


def _answers(result: MethodOutcomes) -> list[Row]:
    """The finalists of the targets that ask for latency; without any, the best of what was searched."""
    asked = {target.asked for target, _ in result.prepared.targets if LATENCY in target.measures}
    rows = [row for row in rows_of(result) if row.target in asked and row.outcome.status == "ok"]
    finals = [row for row in rows if row.stage == "final"]
    best = {result.key(each.candidate) for each in best_candidates(result.seen, 1)}
    return finals or [row for row in rows if row.key in best]


def _checked(result: MethodOutcomes, row: Row) -> CheckedLatency:
    method = result.prepared
    assert method.table is not None
    return check_prediction(method.compressor, method.compressor.levels(allocation_of(row)), method.table)


def _still_true(result: MethodOutcomes, known: CheckedLatency | None) -> CheckedLatency | None:
    """What was measured before, unless on another device, with other threads or beside another prediction."""
    table = result.prepared.table
    if known is None or table is None or table.dense_nanoseconds != round(1e6 * known.predicted_dense_ms):
        return None
    same = (known.threads, known.batch) == (table.where.threads, table.where.batch)
    return known if same and table.where.device in known.device else None
