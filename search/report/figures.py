"""The report's figures, as plotly.js takes them: plain data, layout, and what changes on a narrow screen.

Horizontal axes show kept FLOPs in per cent and vertical ones the task's metric in its unit. Every text that could come
from a user goes through `plot_text`, because plotly renders some HTML.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from models.errors import printable_text
from models.tasks.metric import Metric
from search.results.dense import Dense
from search.results.figure_text import shorten_middle
from search.results.tables import table_records

Figure = dict[str, Any]
Target = tuple[str, int]  # as asked, and the FLOPs that are meant

# Okabe and Ito's palette without its yellow: told apart by colour-blind readers, readable on light and dark.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "star-triangle-down", "hexagon")
GREY = "#808a93"
LABEL_HEIGHT = 17  # pixels between levels of labels
AXIS = {"zeroline": False, "automargin": True, "ticks": "outside", "tickcolor": GREY}
HOVER = {"bgcolor": "#ffffff", "bordercolor": GREY, "font": {"color": "#1c2024", "size": 13}, "align": "left"}


def plot_text(text: object) -> str:
    """Text as plotly shows it literally: it renders a few tags, decodes `&lt; &gt; &amp;`, and fills in `%{...}`."""
    return html.escape(printable_text(str(text)), quote=False).replace("%{", "%&#123;")


class GroupStyle(NamedTuple):
    """How the points of one method and strategy look."""

    name: str
    color: str
    symbol: str


Styles = Mapping[tuple[str, str], GroupStyle]  # by method and strategy


def group_styles(frame: pd.DataFrame) -> Styles:
    """The styles of a whole page, from a table with all of its methods and strategies.

    Symbols tell strategies apart; colours tell methods apart, or strategies where there is one method. Both go by name
    and not by the order of the rows, so that the figures and the pages of a run agree.
    """
    methods, strategies = sorted(set(frame["method"])), sorted(set(frame["strategy"]))
    styles = {}
    for method, strategy in itertools.product(methods, strategies):
        symbol_index = strategies.index(strategy)
        color_index = methods.index(method) if len(methods) > 1 else symbol_index
        name = f"{method}, {strategy}" if len(methods) > 1 else strategy
        color, symbol = COLORS[color_index % len(COLORS)], SYMBOLS[symbol_index % len(SYMBOLS)]
        styles[method, strategy] = GroupStyle(shorten_middle(name, 36), color, symbol)
    return styles


def styled_groups(frame: pd.DataFrame, styles: Styles) -> Iterator[tuple[GroupStyle, pd.DataFrame]]:
    """The rows of every method and strategy with their style, in the order of their names."""
    for (method, strategy), candidates in frame.groupby(["method", "strategy"]):
        yield styles[str(method), str(strategy)], candidates


def stagger_labels(positions: Sequence[float], gap: float) -> list[int]:
    """A level (0 is the lowest) for the label at each position, so that labels of one level lie `gap` apart."""
    levels, ends = [0] * len(positions), list[float]()
    for index in sorted(range(len(positions)), key=lambda i: positions[i]):
        position = positions[index]
        # The lowest level whose last label ends far enough to the left, or a new one on top.
        level = next((i for i, end in enumerate(ends) if position - end >= gap), len(ends))
        ends[level : level + 1] = [position]
        levels[index] = level
    return levels


def front_figure(
    frame: pd.DataFrame, front: pd.DataFrame, dense: Dense, targets: Sequence[Target], styles: Styles
) -> Figure | None:
    """Kept FLOPs against the search score of every searched candidate; None if none was judged."""
    judged = frame[(frame["stage"] == "search") & frame["score"].notna() & frame["kept_flops"].notna()]
    if judged.empty:
        return None
    metric = dense.metric
    data = [_candidates_trace(*group, metric) for group in styled_groups(judged, styles)]
    data.insert(0, _front_trace(front, metric))
    if dense.search_score is not None:
        data.append(_dense_trace(dense.search_score, "dense, search split", metric))
    return _with_targets(data, axes_layout("on the search split", metric), targets, dense, dense.search_score)


def finals_figure(finals: pd.DataFrame, dense: Dense, targets: Sequence[Target], styles: Styles) -> Figure | None:
    """Kept FLOPs against the test score of the finalists, with one standard deviation over seeds."""
    judged = finals[finals["test_score"].notna() & finals["kept_flops"].notna()]
    if judged.empty:
        return None
    metric = dense.metric
    data = [_finals_trace(*group, metric) for group in styled_groups(judged, styles)]
    if dense.test_score is not None:
        data.append(_dense_trace(dense.test_score, "dense, test set", metric))
    return _with_targets(data, axes_layout("on the test set", metric), targets, dense, dense.test_score)


def _candidates_trace(style: GroupStyle, candidates: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    columns = ("candidate", "method", "strategy", "target")
    return _marker_trace(style, candidates, "score", metric) | {
        "customdata": [
            [*(plot_text(candidate[column]) for column in columns), candidate["epochs"], int(candidate["flops"]) / 1e6]
            for candidate in table_records(candidates)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}, %{customdata[2]}, target %{customdata[3]}<br>"
        f"kept %{{x:.2f}} % (%{{customdata[5]:.4~g}} M FLOPs)<br>search {hover_text(metric)}<br>"
        "%{customdata[4]:.3~g} epochs<extra></extra>",
    }


def _finals_trace(style: GroupStyle, finals: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    # A single seed has no spread: its error bar has no length.
    spread = (metric.scale * finals["test_std"]).fillna(0).to_list()
    columns = ("candidate", "method", "strategy")
    return _marker_trace(style, finals, "test_score", metric) | {
        "error_y": {"type": "data", "array": spread, "thickness": 1.5, "width": 4},
        "customdata": [
            [*(plot_text(finalist[column]) for column in columns), int(finalist["seeds"])]
            for finalist in table_records(finals)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}, %{customdata[2]}<br>kept %{x:.2f} %<br>"
        f"test {hover_text(metric)}, n = %{{customdata[3]}}<extra></extra>",
    }


def hover_text(metric: Metric) -> str:
    """`accuracy 91.25 %`, as plotly fills it in."""
    number = "%{y:.2f} %" if metric.unit == "%" else f"%{{y:.4~g}} {plot_text(metric.unit)}"
    return f"{plot_text(metric.name)} {number}".rstrip()


def _marker_trace(style: GroupStyle, candidates: pd.DataFrame, column: str, metric: Metric) -> dict[str, Any]:
    """Kept FLOPs against a column of scores."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plot_text(style.name),
        "x": (100 * candidates["kept_flops"].astype(float)).to_list(),
        "y": (metric.scale * candidates[column].astype(float)).to_list(),
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9, "opacity": 0.8},
    }


def _front_trace(front: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    """A staircase: between two points of the front, no candidate is known that does better than the cheaper one."""
    return _marker_trace(GroupStyle("front", GREY, "circle-open"), front, "score", metric) | {
        "mode": "lines+markers",
        "line": {"shape": "hv", "color": GREY, "width": 1.5},
        "marker": {"symbol": "circle-open", "size": 15, "color": GREY, "line": {"width": 1.5}},
        "hoverinfo": "skip",
    }


def _dense_trace(score: float, name: str, metric: Metric) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [100.0],
        "y": [metric.scale * score],
        "marker": {"symbol": "star", "size": 14, "color": GREY},
        "hovertemplate": f"{name}<br>{hover_text(metric)}<extra></extra>",
    }


def axes_layout(where: str, metric: Metric) -> dict[str, Any]:
    direction = ", lower is better" if metric.lower_is_better else ""
    title = plot_text(f"{metric.name} {where}{direction}".replace(" ,", ","))
    unit = {"ticksuffix": f" {plot_text(metric.unit)}"} if metric.unit else {}
    return plain_layout() | {"yaxis": AXIS | {"title": {"text": title}, **unit}}


def plain_layout() -> dict[str, Any]:
    """Everything but the vertical axis."""
    clear = "rgba(0,0,0,0)"
    return {
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"family": "system-ui, -apple-system, Liberation Sans, DejaVu Sans, sans-serif", "size": 13},
        "hoverlabel": HOVER,
        "hovermode": "closest",
        "height": 460,
        "margin": plot_margins(0),
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        "xaxis": AXIS | {"title": {"text": "kept FLOPs", "standoff": 6}, "ticksuffix": " %"},
    }


def plot_margins(label_levels: int) -> dict[str, int]:
    """Pixels around a plot, with room above it for labels on so many levels."""
    return {"l": 16, "r": 16, "t": 14 + LABEL_HEIGHT * label_levels, "b": 44}


def _with_targets(
    data: list[Any], layout: dict[str, Any], targets: Sequence[Target], dense: Dense, dense_score: float | None
) -> Figure:
    """With a dashed line at the dense score, and a dotted one per target with its label above."""
    target_positions = [100 * flops / dense.flops for _, flops in targets]
    dotted = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1, "dash": "dot"}}
    layout["shapes"] = [dotted | {"x0": x, "x1": x} for x in target_positions]
    if dense_score is not None:
        y = dense.metric.scale * dense_score
        across = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": y, "y1": y}
        layout["shapes"].append(dotted | across | {"line": {"color": GREY, "width": 1, "dash": "dash"}})
    names = [plot_text(f"target {shorten_middle(target, 12)}") for target, _ in targets]
    positions = [x for trace in data for x in trace["x"]] + target_positions
    span = max(1.0, max(positions) - min(positions))
    # The share of the figure's width that a label of twelve letters takes, on a page and on a phone.
    layout |= _target_labels(names, target_positions, 0.12 * span)
    narrow_labels = _target_labels(names, target_positions, 0.34 * span)
    height = 440 + 19 * max(0, len(data) - 3)  # a phone's legend takes a line each: not at the plot's expense
    return {"data": data, "layout": layout, "narrow": {"height": height} | narrow_labels}


def _target_labels(names: Sequence[str], positions: Sequence[float], gap: float) -> dict[str, Any]:
    """Labels above the figure, on as many levels as it takes to keep them apart, and the room for them."""
    levels = stagger_labels(positions, gap)
    label = {"yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
    annotations = [
        label | {"x": x, "yshift": LABEL_HEIGHT * level, "text": name}
        for x, level, name in zip(positions, levels, names, strict=True)
    ]
    return {"annotations": annotations, "margin": plot_margins(1 + max(levels, default=-1))}
