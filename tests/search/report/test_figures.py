"""The figures of a report: plotly's own schema, the tables' figures, and names that cannot act."""

from __future__ import annotations

import json
import re
from itertools import combinations

import pandas as pd
import plotly.graph_objects as go
from fake_run import DENSE, HOSTILE, TARGETS, without_result
from hypothesis import given
from hypothesis import strategies as st

from models.tasks.metric import ACCURACY
from search.report.figures import finals_figure, front_figure, group_styles, stagger_labels
from search.report.page import RunView
from search.report.sensitivity_figures import predicted_figure, sensitivity_figure


def test_figures_are_what_plotly_takes(run: RunView) -> None:
    assert run.sensitivity is not None
    figures = [front_figure(run.tables.candidates, run.tables.front, run.dense, run.drawn_targets, run.styles),
               finals_figure(run.tables.finals, run.dense, run.drawn_targets, run.styles),
               sensitivity_figure(run.sensitivity, ACCURACY)]  # fmt: skip
    for figure in figures:
        assert figure is not None
        go.Figure(data=figure["data"], layout=figure["layout"] | figure["narrow"])  # raises on what it does not know


def test_the_front_shows_every_judged_candidate_once(run: RunView) -> None:
    figure = front_figure(run.tables.candidates, run.tables.front, run.dense, run.drawn_targets, run.styles)
    assert figure is not None
    shown = [(row[0], x, y) for trace in figure["data"] if "customdata" in trace
             for row, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True)]  # fmt: skip
    judged = run.tables.candidates[run.tables.candidates["score"].notna()]
    expected = zip(judged["candidate"], 100 * judged["kept_flops"], 100 * judged["score"], strict=True)
    assert sorted(shown) == sorted(expected)
    assert len(figure["layout"]["annotations"]) == len(TARGETS)


def test_a_group_looks_alike_in_every_figure_whatever_the_order_of_the_rows(run: RunView) -> None:
    candidates, finals = run.tables.candidates, run.tables.finals
    figures = [front_figure(candidates, run.tables.front, DENSE, TARGETS, run.styles),
               finals_figure(finals.iloc[::-1], DENSE, TARGETS, run.styles),
               finals_figure(finals, DENSE, TARGETS, group_styles(candidates.iloc[::-1]))]  # fmt: skip
    looks: dict[str, set[tuple[str, str]]] = {}
    for figure in figures:
        assert figure is not None
        for trace in figure["data"]:
            if "customdata" in trace:
                looks.setdefault(trace["name"], set()).add((trace["marker"]["color"], trace["marker"]["symbol"]))
    assert len(looks) > 1
    assert all(len(group_looks) == 1 for group_looks in looks.values())
    assert len(set.union(*looks.values())) == len(looks)


def test_nothing_judged_gives_no_figure(run: RunView) -> None:
    assert front_figure(without_result(run).tables.candidates, run.tables.front, DENSE, TARGETS, run.styles) is None
    assert finals_figure(without_result(run).tables.finals, DENSE, TARGETS, run.styles) is None


def test_figures_hold_no_tag_of_a_name(hostile: RunView) -> None:
    """plotly would render these tags; its own entities are all that may stand for them."""
    assert hostile.sensitivity is not None
    targets = [(HOSTILE[0], 1), ("%{x}", 2)]
    figures = [front_figure(hostile.tables.candidates, hostile.tables.front, hostile.dense, targets, hostile.styles),
               finals_figure(hostile.tables.finals, hostile.dense, targets, hostile.styles),
               sensitivity_figure(hostile.sensitivity, ACCURACY)]  # fmt: skip
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


def test_predicted_curves_have_every_setting_of_every_site() -> None:
    curve = ((8, 0.0), (4, 0.01), (1, 0.4))
    rows = [
        ("tucker", site, f"rank={rank}", 1 / rank, damage * size)
        for site, size in (("conv1", 1.0), (HOSTILE[1], 2**-10))
        for rank, damage in curve
    ]
    table = pd.DataFrame(rows, columns=["method", "site", "setting", "strength", "damage"])
    figure = predicted_figure(table)
    drawn = go.Figure(data=figure["data"], layout=figure["layout"] | figure["narrow"])
    assert [list(line.y) for line in drawn.data] == [[0.0, 0.01, 0.4], [0.0, 0.01 * 2**-10, 0.4 * 2**-10]]
    assert [list(line.x) for line in drawn.data] == [[1 / 8, 1 / 4, 1]] * 2
    assert drawn.layout.yaxis.type == "log"
    for trace in figure["data"]:
        del trace["hovertemplate"]  # ours, with <b> and <br>
    assert not re.search(r"<|%\{", json.dumps(figure))
