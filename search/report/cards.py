"""The answers of a report: a card for every target."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from models.tasks.metric import ACCURACY, Metric
from search.report.view import RunView
from search.results.best import Best
from search.results.figure_text import percent_text, si_text


class Card(NamedTuple):
    """The answer to one target; without a score and facts where no candidate succeeded."""

    target: str
    limit: str
    score: str = ""
    facts: tuple[str, ...] = ()


def make_card(run: RunView, target: str, flops: int | None, best: Best | None) -> Card:
    """Of a target, its FLOPs if it speaks of them, and its best candidate."""
    # A target with several parts names all of its limits, not only the FLOPs.
    limit = f"{si_text(flops)} FLOPs" if flops is not None and "+" not in target else run.limits[target]
    if best is None:
        return Card(target, limit)
    answer, metric = best.record, run.dense.metric
    spread = f" ± {metric.spread_text(best.std)}" if best.std is not None else ""
    dense_score = run.dense.test_score if best.on_test else run.dense.search_score
    change = ""
    if dense_score is not None:
        change = f"{metric.change_text(best.score - dense_score).replace('-', '−')} against dense; "
    seeds = (
        f"test set, n\u00a0=\u00a0{answer['seeds']}" if best.on_test else "search split: it ranks, it is not a result"
    )
    smaller = f"; file {answer['compression']:.2f}× smaller" if pd.notna(answer["compression"]) else ""
    facts = [
        f"{change}{seeds}",
        f"kept {percent_text(answer['kept_flops'])} % of FLOPs ({si_text(answer['flops'])}){smaller}",
        f"{answer['method']}, {answer['strategy']}, candidate {answer['candidate']}",
        f"Why this one: {best.reason}",
    ]
    if answer["candidate"] in run.latencies:
        facts.append(f"Latency: {run.latencies[answer['candidate']]}")
    if best.rival is not None:
        rival = best.rival
        mean, std = metric.number_text(rival["test_score"]), metric.spread_text(rival["test_std"])
        rival_score = f"{mean} ± {std} {metric.unit}".rstrip()
        facts.append(f"Within the noise of {rival['method']}, {rival['strategy']}: {rival_score}")
    return Card(target, limit, f"{named_score(best.score, metric)}{spread} {metric.unit}".rstrip(), tuple(facts))


def named_score(score: float, metric: Metric) -> str:
    """Everybody knows what a percentage alone is of: accuracy; other metrics have their name in front."""
    return metric.number_text(score) if metric == ACCURACY else f"{metric.name} {metric.number_text(score)}"
