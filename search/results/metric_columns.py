"""What the columns of tables are called outside: figures of the task's metric by its name.

Inside, tables have `score`, `test_score`, `dense_score` and `delta`, whatever the metric: `accuracy`, `test_accuracy`,
`dense_accuracy` and `delta_points` of a task that is judged by accuracy, in its files and in Python. What it calls
images are other tasks' inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from models.tasks.metric import ACCURACY, Metric

SCORE, TEST_SCORE, DENSE_SCORE, DELTA, IMAGES = "score", "test_score", "dense_score", "delta", "images"


def outside_names(metric: Metric, columns: Iterable[str] = ()) -> dict[str, str]:
    """Inside name -> outside name.

    Args:
        columns: of the table, inside. A metric that is called like one of them, `loss`, has `loss_score`.
    """
    taken = set(columns) - {SCORE, TEST_SCORE, DENSE_SCORE, DELTA, IMAGES}
    names = {
        SCORE: metric.name,
        TEST_SCORE: f"test_{metric.name}",
        DENSE_SCORE: f"dense_{metric.name}",
        DELTA: "delta_points" if metric.unit == "%" else f"delta_{metric.name}",
        IMAGES: "images" if metric == ACCURACY else "inputs",
    }
    for column in taken:
        inside, _, other = column.partition(":")  # of a metric that does not rank; latencies of devices keep theirs
        if other and inside in (SCORE, TEST_SCORE):
            names[column] = f"test_{other}" if inside == TEST_SCORE else other
    return {inside: f"{name}_score" if name in taken else name for inside, name in names.items()}


def name_columns(table: pd.DataFrame, metric: Metric = ACCURACY) -> pd.DataFrame:
    """A table as it is shown; differences of percentages in percentage points."""
    if DELTA in table:
        table = table.assign(**{DELTA: metric.scale * table[DELTA].astype(float)})
    return table.rename(columns=outside_names(metric, table.columns))


def plain_columns(table: pd.DataFrame, columns: Iterable[str], metric: Metric = ACCURACY) -> pd.DataFrame:
    """The inverse of `name_columns`; `columns`: of the table, inside."""
    table = table.rename(columns={outside: inside for inside, outside in outside_names(metric, columns).items()})
    return table.assign(**{DELTA: table[DELTA] / metric.scale}) if DELTA in table else table
