"""Figures that papers report."""

from __future__ import annotations

import pytest

from search.leaderboard.reported import REPORTED, reported_for_task


def test_reported_figures_follow_from_one_another() -> None:
    resrep = next(line for line in reported_for_task("resnet56 on cifar10") if line.method == "ResRep")
    assert resrep.delta_points == 0
    assert resrep.kept_flops == pytest.approx(1 / 2.12, abs=1e-3)  # the paper gives both
    assert reported_for_task("resnet56 on digits") == []
    assert all(line.accuracy is None or 0.5 < line.accuracy < 1 for line in REPORTED)
    assert all(line.reduction is None or 0 < line.reduction < 1 for line in REPORTED)
