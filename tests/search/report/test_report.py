"""The page and the picture of a run: what they say, and that nothing in a name can act."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_run import DENSE, HOSTILE, TARGETS, fake_run, hostile_sites, with_tables
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from page_reader import Reader
from PIL import Image

from search.report.figures import finals_figure, front_figure, sensitivity_figure, stagger_labels
from search.report.page import RunView, report_html, write_report
from search.report.picture import draw_picture, write_picture
from search.results.figure_text import percent_text, points_text, shorten_middle, si_text
from search.results.run_tables import RunTables
from search.results.tables import Dense


def no_result(run: RunView) -> RunView:
    """The same run, had every candidate failed."""
    frame = run.tables.candidates.assign(status="failed", reason="out of memory", accuracy=np.nan, test_accuracy=np.nan)
    failed = with_tables(run, candidates=frame, front=frame[:0], finals=run.tables.finals[:0])
    return dataclasses.replace(failed, allocations={})


# ---- what a page says


def test_answers_come_from_the_finals(run: RunView) -> None:
    for asked, _ in TARGETS:
        best = run.tables.best(asked)
        rivals = run.tables.finals[run.tables.finals["target"] == asked]["test_accuracy"]
        assert best is not None
        assert best.on_test
        assert best.accuracy == max(rivals)
        assert f"{100 * best.accuracy:.2f} ± " in Reader(report_html(run)).text


def test_without_finals_the_search_split_answers_and_is_named(run: RunView) -> None:
    searched = with_tables(run, finals=run.tables.finals[:0])
    best = searched.tables.best("0.5")
    assert best is not None
    assert not best.on_test
    at_half = run.tables.candidates[
        (run.tables.candidates["target"] == "0.5") & (run.tables.candidates["stage"] == "search")
    ]
    assert best.accuracy == at_half["accuracy"].max()
    assert "search split: it ranks, it is not a result" in Reader(report_html(searched)).text


@pytest.mark.parametrize(("gap", "std", "tied"), [(0.01, 0.002, False), (0.01, 0.02, True), (0.01, np.nan, False)])
def test_a_rival_inside_the_noise_is_named(run: RunView, gap: float, std: float, tied: bool) -> None:
    finals = run.tables.finals
    finals = finals[finals["target"] == "0.5"].assign(test_accuracy=[0.9, 0.9 - gap], test_std=std)
    best = with_tables(run, finals=finals).tables.best("0.5")
    assert best is not None
    assert (best.rival is not None) == tied


def test_a_target_without_success_says_so(run: RunView) -> None:
    assert no_result(run).tables.best("0.5") is None
    text = Reader(report_html(no_result(run))).text
    assert text.count("No candidate succeeded.") == len(TARGETS)
    assert "out of memory" in text


def test_every_candidate_command_fact_and_skipped_layer_is_on_the_page(run: RunView) -> None:
    text = Reader(report_html(run)).text
    candidates = run.tables.candidates
    said = [*candidates["candidate"], run.command, run.resume_command, run.export_command, *run.facts.values(),
            *run.skipped, *run.skipped.values(), *candidates["reason"].dropna()]  # fmt: skip
    assert [thing for thing in said if thing not in text] == []


def test_missing_figures_are_blank(run: RunView) -> None:
    dense = Dense(DENSE.flops, DENSE.params, DENSE.bytes, None, None)
    finals = run.tables.finals.assign(test_std=np.nan, delta_points=np.nan)
    text = Reader(report_html(dataclasses.replace(with_tables(run, finals=finals), dense=dense))).text
    assert not re.search(r"\b(nan|NaN %|None|<NA>)\b", text)
    assert "points against dense" not in text


def test_an_empty_run_has_a_page_and_a_picture(tmp_path: Path) -> None:
    empty = RunView("nothing yet", "", "", "", "", {}, DENSE, RunTables.from_entries([], DENSE), targets=TARGETS)
    write_report(tmp_path / "report.html", empty)
    write_picture(tmp_path / "pareto.png", empty)
    assert Reader((tmp_path / "report.html").read_text()).text.count("No candidate succeeded.") == len(TARGETS)


# ---- nothing in a name can act


def test_hostile_names_are_text(hostile: RunView) -> None:
    plain, page = Reader(report_html(fake_run(hostile_sites(), per_group=6))), Reader(report_html(hostile))
    assert page.tags == plain.tags
    assert not page.tags.keys() & {"img", "iframe", "link", "b", "i"}
    assert {name for _, name, _ in page.attributes} == {name for _, name, _ in plain.attributes}
    assert hostile.title in page.text


def test_the_page_refers_to_nothing_outside_itself(hostile: RunView) -> None:
    page = Reader(report_html(hostile))
    assert [found for found in page.attributes if found[1] in ("src", "srcset", "action")] == []
    assert all(value and value.startswith("#") for _, name, value in page.attributes if name == "href")
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy


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


# ---- pieces, by hand


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (40_813_184, "40.8 M"), (125_485_696, "125.5 M"), (9_999_999, "10.0 M"),
     (4_089_184_256, "4.09 G"), (pd.NA, ""), (None, "")],
)  # fmt: skip
def test_si(value: int | None, text: str) -> None:
    assert si_text(value) == text


def test_si_with_a_unit() -> None:
    assert [si_text(512, "B"), si_text(1_089_896, "B")] == ["512 B", "1.09 MB"]


def test_percent_and_points() -> None:
    assert [percent_text(0.9173), percent_text(None)] == ["91.73", ""]
    assert [points_text(-0.0071), points_text(0.0071), points_text(np.nan)] == ["−0.71", "+0.71", ""]


@given(st.text(max_size=40), st.integers(3, 30))
def test_shortened_text_keeps_both_ends(text: str, width: int) -> None:
    halves = [(text[:head], text[-tail:]) for head in range(width) if abs(2 * head - width + 1) <= 1
              and (tail := width - 1 - head)]  # fmt: skip
    assert shorten_middle(text, width) in (
        [text] if len(text) <= width else [f"{head}…{tail}" for head, tail in halves]
    )


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.1, 40))
def test_labels_of_one_row_lie_apart(positions: list[float], gap: float) -> None:
    rows = stagger_labels(positions, gap)
    labels = list(zip(rows, positions, strict=True))
    assert all(row != other or abs(a - b) >= gap for (row, a), (other, b) in combinations(labels, 2))
    lonely = all(abs(a - b) >= gap for a, b in combinations(positions, 2))
    assert not lonely or set(rows) <= {0}


# ---- figures: plotly's own schema and the tables' figures


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
    assert front_figure(no_result(run).tables.candidates, run.tables.front, DENSE, TARGETS) is None
    assert finals_figure(no_result(run).tables.finals, DENSE, TARGETS) is None


# ---- picture


def test_picture_is_a_whole_png(run: RunView, tmp_path: Path) -> None:
    write_picture(tmp_path / "pareto.png", run)
    with Image.open(tmp_path / "pareto.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.size == (1500, 900)
        colors = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colors is not None
    assert len(colors) > 100  # drawn, not blank


@pytest.mark.parametrize("asked", [("0.7", "0.5", "0.3"), ("0.52", "0.5", "0.49", "0.48", "0.1")])
def test_labels_in_the_picture_do_not_overlap(run: RunView, asked: tuple[str, ...]) -> None:
    targets = [(name, int(float(name) * DENSE.flops)) for name in asked]
    figure = draw_picture(dataclasses.replace(run, targets=targets))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {f"target {name}" for name in asked} <= set(texts)
    assert any(" % at " in text for text in texts)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_crowded_points_of_the_front_get_labels_that_do_not_overlap(run: RunView) -> None:
    kept = [0.30 + 0.012 * step for step in range(12)]  # a label is as wide as six of these steps
    front = pd.DataFrame({"kept_flops": kept, "flops": [int(share * DENSE.flops) for share in kept],
                          "accuracy": [0.9 + 0.001 * step for step in range(12)]})  # fmt: skip
    figure = draw_picture(dataclasses.replace(with_tables(run, front=front), targets=[]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [text for text in figure.axes[0].texts if " % at " in text.get_text()]
    boxes = [Text.get_window_extent(label, canvas.get_renderer()) for label in labels]  # without its white frame
    assert len(boxes) >= 2
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_most_accurate_point_of_the_front_is_labelled(run: RunView) -> None:
    texts = [text.get_text() for text in draw_picture(run).axes[0].texts]
    top = run.tables.candidates.loc[run.tables.candidates["accuracy"].idxmax()]
    assert f"{100 * top['accuracy']:.1f} % at {100 * top['kept_flops']:.1f} %" in texts


def test_hostile_names_do_not_break_the_picture(hostile: RunView) -> None:
    view = dataclasses.replace(hostile, title="$\\frac{1$ " + HOSTILE[9], targets=[("$x^{", 20_000_000)])
    buffer = io.BytesIO()
    draw_picture(view).savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
