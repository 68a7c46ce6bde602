"""The picture of a run: its labels, and that it is drawn whatever names there are."""

from __future__ import annotations

import dataclasses
import io
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from fake_run import DENSE, HOSTILE, with_tables
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from search.report.page import RunView
from search.report.picture import draw_picture, write_picture


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
                          "score": [0.9 + 0.001 * step for step in range(12)]})  # fmt: skip
    figure = draw_picture(dataclasses.replace(with_tables(run, front=front), targets=[]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [text for text in figure.axes[0].texts if " % at " in text.get_text()]
    boxes = [Text.get_window_extent(label, canvas.get_renderer()) for label in labels]  # without its white frame
    assert len(boxes) >= 2
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_most_accurate_point_of_the_front_is_labelled(run: RunView) -> None:
    texts = [text.get_text() for text in draw_picture(run).axes[0].texts]
    top = run.tables.candidates.loc[run.tables.candidates["score"].idxmax()]
    assert f"{100 * top['score']:.1f} % at {100 * top['kept_flops']:.1f} %" in texts


def test_hostile_names_do_not_break_the_picture(hostile: RunView) -> None:
    view = dataclasses.replace(hostile, title="$\\frac{1$ " + HOSTILE[9], targets=[("$x^{", 20_000_000)])
    buffer = io.BytesIO()
    draw_picture(view).savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
