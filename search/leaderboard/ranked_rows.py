"""The order of a leaderboard's rows: bands of targets that mean the same FLOPs, and ranks within them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from models.tasks.metric import ACCURACY, Metric
from search.allocation.targets import ON_DEVICE, TOLERANCE, beyond_flops
from search.leaderboard.board_rows import TYPES
from search.ranking import Sample, candidate_name, rank_numbers, rank_tested, target_bands
from search.results.tables import figure_or_none, table_records


def rank_rows(frame: pd.DataFrame, metric: Metric = ACCURACY) -> pd.DataFrame:
    """With bands and ranks, by falling band, the best first; rows without a score come last in their band."""
    # Targets asked for in different ways (0.5, 2x, 30M) compete where they mean the same FLOPs within the tolerance.
    frame["band"] = target_bands(frame["kept_asked"].fillna(0.0).tolist(), TOLERANCE)
    # Two tables may call different devices, or the same under other conditions, by one name.
    on_device = frame["target"].str.contains(ON_DEVICE, regex=False)
    devices = frame["latency_device"].where(on_device).fillna("")
    for _, rivals in frame.groupby(["band", frame["target"].map(beyond_flops), devices]):
        # Limits on other measures make another problem, so rows with and without them do not compete.
        samples = [_test_sample(board_row, metric) for board_row in table_records(rivals)]
        frame.loc[rivals.index, "rank"] = pd.array(rank_numbers(samples), dtype="Int64")
    by_band = [band_rows for _, band_rows in frame.groupby("band")]
    order = [label for band_rows in reversed(by_band) for label in _order_band(band_rows, metric)]
    frame = frame.drop(columns=["images", "allocation"]).astype(TYPES)
    return frame.loc[order].reset_index(drop=True)


def _order_band(band_rows: pd.DataFrame, metric: Metric) -> list[int]:
    """Labels of one band's rows as `search.ranking` orders finalists; those without a figure last, by name."""
    by_label = dict(zip(band_rows.index, table_records(band_rows), strict=True))
    names = {
        label: (*candidate_name(board_row["strategy"], board_row["method"], board_row["allocation"]), board_row["row"])
        for label, board_row in by_label.items()
    }
    samples = {
        label: sample
        for label, board_row in by_label.items()
        if (sample := _test_sample(board_row, metric)) is not None
    }
    ranked = rank_tested(list(samples), list(samples.values()), [names[label] for label in samples])
    return [place.candidate for place in ranked] + sorted(by_label.keys() - samples.keys(), key=names.__getitem__)


def _test_sample(board_row: Mapping[str, Any], metric: Metric) -> Sample | None:
    if pd.isna(board_row["score"]):
        return None
    std, flops = figure_or_none(board_row["std"]), figure_or_none(board_row["flops"])
    return Sample(board_row["score"], std, board_row["n"], board_row["images"], flops, metric)
