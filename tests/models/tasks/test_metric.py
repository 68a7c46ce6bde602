"""Metrics as they are written and shown."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import UserError
from models.tasks.metric import ACCURACY, Metric, parse_metrics

ERROR = Metric(name="MAE", unit="mm", lower_is_better=True)


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("mIoU", Metric(name="mIoU")),
        ("PSNR, dB", Metric(name="PSNR", unit="dB")),
        ("MAE, mm, lower is better", ERROR),
        (" MAE ,lower is better,  mm ", ERROR),
        ("MAE, mm, Lower Is Better", ERROR),
        ("mIoU, %, higher is better", Metric(name="mIoU", unit="%")),
        ("perplexity, lower is better", Metric(name="perplexity", lower_is_better=True)),
    ],
)
def test_texts_are_read_and_written_back(text: str, metric: Metric) -> None:
    assert Metric.parse(text) == metric
    assert Metric.parse(str(metric)) == metric


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write NAME, or NAME, UNIT"),
        ("MAE, mm, m", "write NAME, or NAME, UNIT"),
        ("MAE, lower is better, higher is better", "write NAME, or NAME, UNIT"),
        ("MAE, lower", "direction 'lower' is not known"),
        ("MAE, mm, minimise", "direction 'minimise' is not known"),
        ("MAE, mm, is better lower", "direction 'is better lower' is not known"),
        ("MAE; lower is better", "its name holds a direction; write NAME, lower is better"),
        ("MAE lower is better", "its name holds a direction"),
        ("lower is better", "its name holds a direction"),
        ("minimise MAE, mm", "its name holds a direction"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Metric.parse(text)


@pytest.mark.parametrize("metrics", [None, 3])
def test_metrics_that_are_no_texts_are_refused(metrics: Any) -> None:
    with pytest.raises(UserError, match=f"the task's metrics are {metrics}; name each as text"):
        parse_metrics(metrics)


@pytest.mark.parametrize(
    ("value", "text"),
    [(25013, "25013"), (25009.4, "25009"), (99999.4, "99999"), (123456789, "123456789"), (1e12, "1e+12")],
)
def test_all_digits_before_the_point_are_shown(value: float, text: str) -> None:
    price = Metric(name="MAE", unit="EUR")
    assert price.value_text(value) == f"{text} EUR"
    assert price.change_text(-value) == f"-{text} EUR"
    assert price.gap_text(value) == f"{text} EUR"
    assert price.delta_text(value) == f"+{text}"
    assert price.spread_text(value) == text


def test_a_direction_is_named_in_any_case() -> None:
    assert ERROR.with_direction == "MAE, mm, lower is better"
    assert Metric(name="MAE").with_direction == "MAE, higher is better"


def test_a_users_accuracy_is_not_the_counted_one() -> None:
    assert Metric.parse("accuracy, %") != ACCURACY
    assert str(Metric.parse("accuracy, %")) == str(ACCURACY)


def test_one_text_is_one_metric() -> None:
    assert parse_metrics("mIoU, %") == (Metric(name="mIoU", unit="%"),)
    assert parse_metrics([ERROR, "PSNR, dB"]) == (ERROR, Metric(name="PSNR", unit="dB"))


def test_the_better_value_is_worth_more() -> None:
    assert sorted([3.0, 1.0, 2.0], key=ERROR.worth) == [3.0, 2.0, 1.0]
    assert sorted([3.0, 1.0, 2.0], key=ACCURACY.worth) == [1.0, 2.0, 3.0]


def test_percentages_are_shares_and_other_units_stand_behind_numbers() -> None:
    shown = [
        (metric.heading, metric.value_text(0.91256), metric.mean_text(0.91256, 0.00123), metric.delta_text(-0.0052),
         metric.change_text(-0.0052), metric.gap_text(0.0052), metric.delta_heading)
        for metric in (ACCURACY, ERROR, Metric(name="mAP50"))
    ]  # fmt: skip
    assert shown == [
        ("accuracy, %", "91.26%", "91.26% ± 0.12%", "−0.52", "-0.52 points", "0.52 points", "Δ, points"),
        ("MAE, mm", "0.9126 mm", "0.9126 ± 0.0012 mm", "−0.0052", "-0.0052 mm", "0.0052 mm", "Δ, mm"),
        ("mAP50", "0.9126", "0.9126 ± 0.0012", "−0.0052", "-0.0052", "0.0052", "Δ"),
    ]
    assert ERROR.mean_text(2.0, None) == "2 mm"
