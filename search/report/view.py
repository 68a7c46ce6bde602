"""What a run has to show, and the answer to it: the best allocation of each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from methods.base import Centroids
from search.ranking import LEVEL, Sample, welch
from search.report.ratio_bars import Ratios
from search.results.tables import Dense, records


@dataclass(frozen=True, eq=False)
class RunView:
    """Everything of a run that its report and picture show."""

    title: str
    created: str
    command: str
    """Reproduces the run."""
    resume_command: str
    export_command: str
    facts: Mapping[str, str]
    """Network, data, weights, versions, host, device, notes on the protocol."""
    dense: Dense
    frame: pd.DataFrame
    """`candidates_frame`."""
    front: pd.DataFrame
    """`pareto` of it."""
    finals: pd.DataFrame
    """`finals_frame`."""
    allocations: Mapping[str, Ratios] = field(default_factory=dict)
    """Short id of each candidate worth looking at -> its sites, in the network's order."""
    centroids: Mapping[str, Sequence[Centroids]] = field(default_factory=dict)
    """Short id of each target's answer -> its codebooks before fine-tuning, for methods that have some."""
    sensitivity: pd.DataFrame | None = None
    """Columns method, site, setting, strength, accuracy, loss, images."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Layer -> why it is left dense."""
    targets: list[tuple[str, int | None]] = field(default_factory=list)
    """As asked (the tables' `target`), and the FLOPs that are meant, if any are."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Target as asked -> its limits in words."""
    remarks: Sequence[str] = ()
    """Sentences: targets that are not met closely, measurements that failed."""
    latencies: Mapping[str, str] = field(default_factory=dict)
    """Short id of each candidate that was measured whole -> what was found beside what was predicted."""

    @property
    def lines(self) -> list[tuple[str, int]]:
        """The targets that can be drawn on an axis of FLOPs."""
        return [(asked, flops) for asked, flops in self.targets if flops is not None]


@dataclass(frozen=True)
class Best:
    """The best allocation of one target: a finalist on the test set, or, without finalists, a searched candidate."""

    line: Mapping[str, Any]
    on_test: bool
    accuracy: float
    std: float | None
    rival: Mapping[str, Any] | None
    """The best finalist that the spread of seeds does not tell apart from it."""


def best_of(run: RunView, asked: str) -> Best | None:
    """The most accurate on the test set for a target; where nothing met the test set, on the search split."""
    finals = run.finals[(run.finals["target"] == asked) & run.finals["test_accuracy"].notna()]
    if not finals.empty:
        first, *others = records(finals.sort_values("test_accuracy", ascending=False, kind="stable"))
        rival = next((other for other in others if _indistinct(first, other)), None)
        return Best(first, True, first["test_accuracy"], known(first["test_std"]), rival)
    frame = run.frame
    searched = frame[(frame["stage"] == "search") & (frame["target"] == asked) & frame["accuracy"].notna()]
    if searched.empty:
        return None
    line = records(searched.sort_values("accuracy", ascending=False, kind="stable"))[0]
    return Best(line, False, line["accuracy"], None, None)


def _indistinct(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether Welch's t-test does not tell two means apart, as on the leaderboard; False where a spread is unknown."""
    if pd.isna(one["test_std"]) or pd.isna(other["test_std"]):
        return False
    return welch(_sample(one), _sample(other)) >= LEVEL


def _sample(line: Mapping[str, Any]) -> Sample:
    return Sample(line["test_accuracy"], line["test_std"], line["seeds"], images=1)


def known(value: Any) -> float | None:
    """A table's figure, None where it is blank."""
    return None if pd.isna(value) else float(value)
