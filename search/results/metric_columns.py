"""What the columns of tables are called outside: figures of the task's metric by its name.

Inside, tables have `score`, `test_score`, `dense_score` and `delta`, whatever the metric: `accuracy`, `test_accuracy`,
`dense_accuracy` and `delta_points` of a task that is judged by accuracy, in its files and in Python. What it calls
images are other tasks' inputs.
"""

from __future__ import annotations

import pandas as pd

from models.tasks.metric import ACCURACY, Metric

SCORE, TEST_SCORE, DENSE_SCORE, DELTA, IMAGES = "score", "test_score", "dense_score", "delta", "images"


def outside_names(metric: Metric) -> dict[str, str]:
    """Inside name -> outside name."""
    return {
        SCORE: metric.name,
        TEST_SCORE: f"test_{metric.name}",
        DENSE_SCORE: f"dense_{metric.name}",
        DELTA: "delta_points" if metric.unit == "%" else f"delta_{metric.name}",
        IMAGES: "images" if metric == ACCURACY else "inputs",
    }


def name_columns(table: pd.DataFrame, metric: Metric = ACCURACY) -> pd.DataFrame:
    """A table as it is shown; differences of percentages in percentage points."""
    if DELTA in table:
        table = table.assign(**{DELTA: metric.scale * table[DELTA].astype(float)})
    return table.rename(columns=outside_names(metric))


def plain_columns(table: pd.DataFrame, metric: Metric = ACCURACY) -> pd.DataFrame:
    """The inverse of `name_columns`."""
    table = table.rename(columns={outside: inside for inside, outside in outside_names(metric).items()})
    return table.assign(**{DELTA: table[DELTA] / metric.scale}) if DELTA in table else table
