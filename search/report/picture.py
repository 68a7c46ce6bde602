"""`pareto.png`: the front of a run in one picture, for a README or a slide."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from models.errors import printable_text
from models.wording import plural
from search.files.atomic import atomic_write
from search.report.figures import GREY, stagger_labels, styled_groups
from search.report.view import RunView
from search.results.figure_text import shorten_middle
from search.results.tables import table_records

MARKERS = {"circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "cross": "P", "star-triangle-down": "v",
           "hexagon": "h"}  # fmt: skip
# Where the label of a point may go, (x, y) in printer's points and its alignment; the first free place is taken.
PLACES = [(-7, 6, "right", "bottom"), (7, -6, "left", "top"), (7, 6, "left", "bottom"), (-7, -6, "right", "top"),
          (0, 13, "center", "bottom"), (0, -13, "center", "top"), (-22, 20, "right", "bottom"),
          (22, -20, "left", "top")]  # fmt: skip


def write_picture(path: Path, run: RunView) -> None:
    """Write `draw_picture` as a PNG of 1500 × 900 pixels, whole or not at all."""
    buffer = io.BytesIO()
    draw_picture(run).savefig(buffer, format="png")
    atomic_write(path, buffer.getvalue())


def draw_picture(run: RunView) -> Figure:
    """Kept FLOPs against search scores: candidates, front, targets and the dense network."""
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.margins(x=0.1, y=0.12)  # room for the labels of the outermost points
    scale, unit = _flops_unit(run.dense.flops)
    candidates = run.tables.candidates
    searched = candidates[candidates["stage"] == "search"]
    judged = searched[searched["score"].notna() & searched["flops"].notna()]
    _draw_points(axes, run, judged, scale)
    _draw_targets(axes, run, scale)
    _decorate_axes(figure, axes, run, len(judged.drop_duplicates("key")), unit, scale)
    canvas.draw()  # the layout must stand before labels can be told to overlap
    figure.set_layout_engine("none")  # else the labels of the front would move the axes again
    _label_front(axes, run, judged, scale, canvas.get_renderer())
    return figure


def _flops_unit(flops: int) -> tuple[float, str]:
    """The unit of the axis, in FLOPs, and its prefix."""
    return next(((size, name) for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if flops >= size), (1.0, ""))


def _draw_points(axes: Axes, run: RunView, judged: pd.DataFrame, scale: float) -> None:
    front, unit = run.tables.front.astype({"flops": float, "score": float}), run.dense.metric.scale
    axes.plot(
        front["flops"] / scale, unit * front["score"], color=GREY, drawstyle="steps-post", label="front", zorder=1
    )
    for style, group in styled_groups(judged, run.styles):
        points = group.astype({"flops": float, "score": float})
        axes.scatter(points["flops"] / scale, unit * points["score"], color=style.color,
                     marker=MARKERS[style.symbol], s=34, alpha=0.75, linewidths=0, label=printable_text(style.name),
                     zorder=2)  # fmt: skip
    axes.scatter(front["flops"] / scale, unit * front["score"], s=120, facecolors="none", edgecolors="#1c2024",
                 linewidths=1.2, zorder=3)  # fmt: skip
    if run.dense.search_score is not None:
        dense = unit * run.dense.search_score
        axes.scatter([run.dense.flops / scale], [dense], marker="*", s=190, color="#1c2024", label="dense", zorder=3)
        axes.axhline(dense, color=GREY, linewidth=0.8, linestyle="--", zorder=0)


def _draw_targets(axes: Axes, run: RunView, scale: float) -> None:
    """Dotted lines; their labels stand inside at the bottom, on several levels where they would meet."""
    positions = [flops / scale for _, flops in run.drawn_targets]
    low, high = axes.get_xlim()
    # A label takes about an eighth of the width.
    levels = stagger_labels(positions, gap=0.13 * (high - low))
    for (target, _), x, level in zip(run.drawn_targets, positions, levels, strict=True):
        axes.axvline(x, color=GREY, linewidth=0.9, linestyle=":", zorder=0)
        name = printable_text(shorten_middle(target, 12))
        axes.annotate(f"target {name}", (x, 0), xycoords=("data", "axes fraction"), va="bottom",
                      xytext=(4, 4 + 13 * level), textcoords="offset points", fontsize=9, color="#5d666f",
                      parse_math=False)  # fmt: skip


def _decorate_axes(figure: Figure, axes: Axes, run: RunView, count: int, unit: str, scale: float) -> None:
    title = f"{printable_text(shorten_middle(run.title, 90))}\n{plural(count, 'candidate')} judged on the search split"
    axes.set_title(title, loc="left", fontsize=12, linespacing=1.5).set_parse_math(False)
    axes.set_xlabel(f"{unit}FLOPs (multiply-accumulates for one input)")
    metric = run.dense.metric
    direction = "lower is better" if metric.lower_is_better else ""
    label = ", ".join(filter(None, (f"{metric.name} on the search split", metric.unit, direction)))
    axes.set_ylabel(printable_text(label)).set_parse_math(False)
    if not count:
        axes.text(0.5, 0.5, "no candidate was judged", transform=axes.transAxes, ha="center", color="#5d666f")
    axes.grid(color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    top = axes.secondary_xaxis("top", functions=_kept_percent(scale, run.dense.flops))
    top.set_xlabel("kept FLOPs, %", color="#5d666f")
    top.tick_params(colors="#5d666f")
    top.spines["top"].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a name is no formula


def _kept_percent(scale: float, dense: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From the lower axis to the upper one, and back."""
    share = 100 * scale / dense
    return lambda flops: flops * share, lambda kept: kept / share


def _label_front(axes: Axes, run: RunView, judged: pd.DataFrame, scale: float, renderer: RendererAgg) -> None:
    """Score and kept share beside points of the front; a label that finds no free place is left out."""
    metric = run.dense.metric
    points = judged.assign(x=judged["flops"].astype(float) / scale, y=metric.scale * judged["score"].astype(float))
    pixels = axes.transData.transform(points[["x", "y"]].to_numpy())
    occupied = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in pixels]
    occupied += [text.get_window_extent(renderer) for text in axes.texts]
    for point in _labelled_points(run.tables.front):
        position = (int(point["flops"]) / scale, metric.scale * point["score"])
        score = f"{100 * point['score']:.1f} %" if metric.unit == "%" else metric.value_text(point["score"])
        text = f"{score} at {100 * point['kept_flops']:.1f} %"
        label = _place_label(axes, position, text, occupied, renderer)
        if label is not None:
            occupied.append(label.get_window_extent(renderer).padded(2))


def _labelled_points(front: pd.DataFrame) -> list[dict[str, Any]]:
    """The points of the front, less those with a better one within a hundredth of the dense FLOPs above."""
    points = table_records(front)  # by rising FLOPs, and so ever better
    return [point for point, above in zip_longest(points, points[1:])
            if above is None or above["kept_flops"] - point["kept_flops"] > 0.01]  # fmt: skip


def _place_label(
    axes: Axes, position: tuple[float, float], text: str, occupied: Sequence[Bbox], renderer: RendererAgg
) -> Text | None:
    """The label at the first of `PLACES` that lies inside the axes and on nothing else."""
    inside = axes.get_window_extent(renderer)
    for x, y, horizontal, vertical in PLACES:
        label = axes.annotate(text, position, xytext=(x, y), textcoords="offset points", ha=horizontal, va=vertical,
                              fontsize=9, color="#1c2024",
                              bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
        box = label.get_window_extent(renderer)
        within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if within and not any(map(box.overlaps, occupied)):
            return label
        label.remove()
    return None
