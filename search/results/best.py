"""The candidates of a target in the order of `search.ranking`, taken from a run's tables; the first is its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from models.tasks.metric import ACCURACY, Metric
from search.candidate import Outcome
from search.ranking import Name, Ranked, Sample, candidate_name, is_indistinct, rank_searched, rank_tested
from search.results.tables import TableRecord, figure_or_none, table_records


@dataclass(frozen=True)
class Best:
    """The answer to one target: a finalist on the test set, or, without finalists, a searched candidate."""

    record: Mapping[str, Any]
    """Of the table of finalists, or of candidates."""
    on_test: bool
    score: float
    std: float | None
    reason: str
    """Why it is the first, in words."""
    rival: Mapping[str, Any] | None
    """The best finalist that the spread of seeds does not tell apart from it."""


def best_of_target(
    candidates: pd.DataFrame, finals: pd.DataFrame, target: str, metric: Metric = ACCURACY
) -> Best | None:
    """The first finalist of a target; where nothing of it met the test set, the first searched candidate."""
    tested = rank_finals(finals, target, metric)
    if tested:
        first, *rivals = tested
        sample = _test_sample(first.candidate, metric)
        rival = next(
            (rival.candidate for rival in rivals if is_indistinct(sample, _test_sample(rival.candidate, metric))), None
        )
        return Best(first.candidate, True, sample.mean, sample.std, first.reason, rival)
    searched = rank_candidates(candidates, target, metric)
    if not searched:
        return None
    return Best(searched[0].candidate, False, searched[0].candidate["score"], None, searched[0].reason, None)


def rank_finals(
    finals: pd.DataFrame, target: str | None = None, metric: Metric = ACCURACY
) -> list[Ranked[TableRecord]]:
    """The lines of finalists that met the test set; of one target, or of all."""
    tested = finals[finals["test_score"].notna()]
    records = table_records(tested if target is None else tested[tested["target"] == target])
    return rank_tested(
        records, [_test_sample(record, metric) for record in records], [_record_name(record) for record in records]
    )


def rank_candidates(candidates: pd.DataFrame, target: str, metric: Metric = ACCURACY) -> list[Ranked[TableRecord]]:
    """The lines of a target's searched candidates, those that were stopped at a rung last."""
    searched = candidates["stage"].isin(["search", "rung"]) & candidates["score"].notna()
    records = table_records(candidates[searched & (candidates["target"] == target)])
    return rank_searched(
        records, [_recorded_outcome(record, metric) for record in records], [_record_name(record) for record in records]
    )


def _test_sample(record: TableRecord, metric: Metric) -> Sample:
    return Sample(
        record["test_score"],
        figure_or_none(record["test_std"]),
        record["seeds"],
        images=1,  # rank numbers alone look at it, and a run's tables have none
        flops=figure_or_none(record["flops"]),
        metric=metric,
    )


def _recorded_outcome(record: TableRecord, metric: Metric) -> Outcome:
    """What a table keeps of an outcome, as far as the ranking looks at it; a blank figure stays at its default."""
    figures = {name: figure_or_none(record[name]) for name in ("loss", "drift", "merit", "flops", "images", "epochs")}
    known = {name: figure for name, figure in figures.items() if figure is not None}
    return Outcome(status="ok", metric=metric, metrics={metric.name: record["score"]}, **known)


def _record_name(record: TableRecord) -> Name:
    return candidate_name(record["strategy"], record["method"], record["allocation"])
