"""What a run has to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from methods.base import Centroids
from search.report.figures import Styles, group_styles
from search.report.ratio_bars import Ratios
from search.results.dense import Dense
from search.results.run_tables import RunTables


@dataclass(frozen=True, eq=False)
class RunView:
    """Everything of a run that its report and picture show."""

    title: str
    created: str
    command: str
    """Reproduces the run."""
    resume_command: str
    export_command: str | None
    """None if there is nothing to export."""
    facts: Mapping[str, str]
    """Network, data, weights, versions, host, device, notes on the protocol."""
    dense: Dense
    tables: RunTables
    allocations: Mapping[str, Ratios] = field(default_factory=dict)
    """Short id of each candidate worth looking at -> its sites, in the network's order."""
    centroids: Mapping[str, Sequence[Centroids]] = field(default_factory=dict)
    """Short id of each target's answer -> its codebooks before fine-tuning, for methods that have some."""
    sensitivity: pd.DataFrame | None = None
    """Columns method, site, setting, strength, score, loss, images."""
    predicted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Columns method, site, setting, strength, damage: of the methods that predict it."""
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
    def styles(self) -> Styles:
        """Of its methods and strategies, alike in every figure."""
        return group_styles(self.tables.candidates)

    @property
    def drawn_targets(self) -> list[tuple[str, int]]:
        """The targets that can be drawn on an axis of FLOPs."""
        return [(target, flops) for target, flops in self.targets if flops is not None]
