"""The figures of a report: plotly's own schema, the tables' figures, and names that cannot act."""

from __future__ import annotations

import json
import re
from itertools import combinations

import plotly.graph_objects as go
from fake_run import DENSE, HOSTILE, TARGETS, without_result
from hypothesis import given
from hypothesis import strategies as st

from search.report.figures import finals_figure, front_figure, sensitivity_figure, stagger_labels
from search.report.page import RunView


def test_figures_are_what_plotly_takes(run: RunView) -> None:
    assert run.sensitivity is not None
    figures = [front_figure(run.tables.candidates, run.tables.front, run.dense, run.drawn_targets),
               finals_figure(run.tables.finals, run.dense, run.drawn_targets),
               sensitivity_figure(run.sensitivity)]  # fmt: skip
    for figure in figures:
        assert figure is not None
        go.Figure(data=figure["data"], layout=figure["layout"] | figure["narrow"])  # raises on what it does not know


def test_the_front_shows_every_judged_candidate_once(run: RunView) -> None:
    figure = front_figure(run.tables.candidates, run.tables.front, run.dense, run.drawn_targets)
    assert figure is not None
    shown = [(row[0], x, y) for trace in figure["data"] if "customdata" in trace
             for row, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True)]  # fmt: skip
    judged = run.tables.candidates[run.tables.candidates["accuracy"].notna()]
    expected = zip(judged["candidate"], 100 * judged["kept_flops"], 100 * judged["accuracy"], strict=True)
    assert sorted(shown) == sorted(expected)
    assert len(figure["layout"]["annotations"]) == len(TARGETS)


def test_nothing_judged_gives_no_figure(run: RunView) -> None:
    assert front_figure(without_result(run).tables.candidates, run.tables.front, DENSE, TARGETS) is None
    assert finals_figure(without_result(run).tables.finals, DENSE, TARGETS) is None


def test_figures_hold_no_tag_of_a_name(hostile: RunView) -> None:
    """plotly would render these tags; its own entities are all that may stand for them."""
    assert hostile.sensitivity is not None
    targets = [(HOSTILE[0], 1), ("%{x}", 2)]
    figures = [front_figure(hostile.tables.candidates, hostile.tables.front, hostile.dense, targets),
               finals_figure(hostile.tables.finals, hostile.dense, targets),
               sensitivity_figure(hostile.sensitivity)]  # fmt: skip
    for figure in figures:
        assert figure is not None
        templates = [trace.pop("hovertemplate", "") for trace in figure["data"]]  # ours, with <b> and <br>
        assert not re.search(r"<(?!extra>)|%\{", json.dumps(figure))
        assert not any(name in template for name in HOSTILE for template in templates)


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.1, 40))
def test_labels_of_one_row_lie_apart(positions: list[float], gap: float) -> None:
    rows = stagger_labels(positions, gap)
    labels = list(zip(rows, positions, strict=True))
    assert all(row != other or abs(a - b) >= gap for (row, a), (other, b) in combinations(labels, 2))
    lonely = all(abs(a - b) >= gap for a, b in combinations(positions, 2))
    assert not lonely or set(rows) <= {0}
