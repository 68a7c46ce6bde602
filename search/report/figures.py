"""The report's figures, as plotly.js takes them: plain data, layout, and what changes on a narrow screen.

Horizontal axes show kept FLOPs and vertical ones accuracy, both in per cent. Every text that could come from a user
goes through `plot_text`, because plotly renders some HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from plotly.colors import sample_colorscale

from models.errors import printable_text
from search.results.figure_text import shorten
from search.results.tables import Dense, records

Figure = dict[str, Any]
Target = tuple[str, int]  # as asked, and the FLOPs that are meant

# Okabe and Ito's palette without its yellow: told apart by colour-blind readers, readable on light and dark.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "star-triangle-down", "hexagon")
GREY = "#808a93"
HOVER = {"bgcolor": "#ffffff", "bordercolor": GREY, "font": {"color": "#1c2024", "size": 13}, "align": "left"}


def plot_text(text: object) -> str:
    """Text as plotly shows it literally: it renders a few tags, decodes `&lt; &gt; &amp;`, and fills in `%{...}`."""
    return html.escape(printable_text(str(text)), quote=False).replace("%{", "%&#123;")


def styles(frame: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """(name, colour, symbol, rows) of each method and strategy; a colour tells methods apart if there are several."""
    methods, strategies = list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame["strategy"]))
    for (method, strategy), rows in frame.groupby(["method", "strategy"], sort=False):
        mark = strategies.index(strategy)
        color = methods.index(method) if len(methods) > 1 else mark
        name = f"{method}, {strategy}" if len(methods) > 1 else str(strategy)
        yield shorten(name, 36), COLORS[color % len(COLORS)], SYMBOLS[mark % len(SYMBOLS)], rows


def stagger(positions: Sequence[float], gap: float) -> list[int]:
    """A row (0 is the lowest) for the label at each position, so that labels of one row lie `gap` apart."""
    rows, ends = [0] * len(positions), list[float]()
    for index in sorted(range(len(positions)), key=lambda i: positions[i]):
        position = positions[index]
        row = next((r for r, end in enumerate(ends) if position - end >= gap), len(ends))
        ends[row : row + 1] = [position]
        rows[index] = row
    return rows


def front_figure(frame: pd.DataFrame, front: pd.DataFrame, dense: Dense, targets: Sequence[Target]) -> Figure | None:
    """Kept FLOPs against search accuracy of every searched candidate; None if none was judged."""
    judged = frame[(frame["stage"] == "search") & frame["accuracy"].notna() & frame["kept_flops"].notna()]
    if judged.empty:
        return None
    data = [_candidates_trace(*style) for style in styles(judged)]
    data.insert(0, _front_trace(front))
    if dense.search_accuracy is not None:
        data.append(_dense_trace(dense.search_accuracy, "dense, search split"))
    return _figure(data, _axes("accuracy on the search split"), targets, dense.flops, dense.search_accuracy)


def finals_figure(finals: pd.DataFrame, dense: Dense, targets: Sequence[Target]) -> Figure | None:
    """Kept FLOPs against test accuracy of the finalists, with one standard deviation over seeds."""
    judged = finals[finals["test_accuracy"].notna() & finals["kept_flops"].notna()]
    if judged.empty:
        return None
    data = [_finals_trace(*style) for style in styles(judged)]
    if dense.test_accuracy is not None:
        data.append(_dense_trace(dense.test_accuracy, "dense, test set"))
    return _figure(data, _axes("accuracy on the test set"), targets, dense.flops, dense.test_accuracy)


def sensitivity_figure(scan: pd.DataFrame) -> Figure:
    """One line per site of one method: how accuracy falls when that site alone is compressed."""
    sites = list(dict.fromkeys(scan["site"]))
    places = [0.1 + 0.8 * index / max(1, len(sites) - 1) for index in range(len(sites))]
    colors = sample_colorscale("Turbo", places) if len(sites) > len(COLORS) else COLORS
    data = [
        _site_trace(str(site), color, scan[scan["site"] == site].sort_values("strength"))
        for site, color in zip(sites, colors, strict=False)
    ]
    layout = _axes("accuracy, nothing fine-tuned") | {"height": 480, "hovermode": "closest"}
    layout["xaxis"] |= {"title": {"text": "strength (0 dense, 1 hardest)", "standoff": 6}, "ticksuffix": ""}
    layout["legend"] = {"x": 1.02, "y": 1, "font": {"size": 11}, "itemsizing": "constant"}
    below = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}, "maxheight": 160}
    return {"data": data, "layout": layout, "narrow": {"legend": below, "height": 560, "margin": _margin(0)}}


def _candidates_trace(name: str, color: str, symbol: str, rows: pd.DataFrame) -> dict[str, Any]:
    labels = ("candidate", "method", "strategy", "target")
    return _points(name, color, symbol, rows["kept_flops"], rows["accuracy"]) | {
        "customdata": [
            [*(plot_text(row[label]) for label in labels), row["epochs"], int(row["flops"]) / 1e6]
            for row in records(rows)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}, %{customdata[2]}, target %{customdata[3]}<br>"
        "kept %{x:.2f} % (%{customdata[5]:.4~g} M FLOPs)<br>search accuracy %{y:.2f} %<br>"
        "%{customdata[4]:.3~g} epochs<extra></extra>",
    }


def _finals_trace(name: str, color: str, symbol: str, rows: pd.DataFrame) -> dict[str, Any]:
    spread = (100 * rows["test_std"]).fillna(0).to_list()
    return _points(name, color, symbol, rows["kept_flops"], rows["test_accuracy"]) | {
        "error_y": {"type": "data", "array": spread, "thickness": 1.5, "width": 4},
        "customdata": [
            [plot_text(row["candidate"]), plot_text(row["method"]), plot_text(row["strategy"]), int(row["seeds"])]
            for row in records(rows)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}, %{customdata[2]}<br>kept %{x:.2f} %<br>"
        "test accuracy %{y:.2f} %, n = %{customdata[3]}<extra></extra>",
    }


def _site_trace(site: str, color: str, rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plot_text(shorten(site, 26)),
        "meta": plot_text(shorten(site, 90)),
        "x": rows["strength"].astype(float).to_list(),
        "y": (100 * rows["accuracy"].astype(float)).to_list(),
        "customdata": [
            [plot_text(setting), loss]
            for setting, loss in zip(rows["setting"], rows["loss"].astype(float), strict=True)
        ],
        "line": {"color": color, "width": 1.5},
        "marker": {"color": color, "size": 5},
        "hovertemplate": "<b>%{meta}</b><br>%{customdata[0]}<br>accuracy %{y:.2f} %, loss %{customdata[1]:.3f}"
        "<extra></extra>",
    }


def _points(name: str, color: str, symbol: str, kept: pd.Series[float], accuracy: pd.Series[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plot_text(name),
        "x": (100 * kept.astype(float)).to_list(),
        "y": (100 * accuracy.astype(float)).to_list(),
        "marker": {"color": color, "symbol": symbol, "size": 9, "opacity": 0.8},
    }


def _front_trace(front: pd.DataFrame) -> dict[str, Any]:
    """A staircase: between two points of the front, the cheaper one is the best that is known."""
    return _points("front", GREY, "circle-open", front["kept_flops"], front["accuracy"]) | {
        "mode": "lines+markers",
        "line": {"shape": "hv", "color": GREY, "width": 1.5},
        "marker": {"symbol": "circle-open", "size": 15, "color": GREY, "line": {"width": 1.5}},
        "hoverinfo": "skip",
    }


def _dense_trace(accuracy: float, name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [100.0],
        "y": [100 * accuracy],
        "marker": {"symbol": "star", "size": 14, "color": GREY},
        "hovertemplate": f"{name}<br>accuracy %{{y:.2f}} %<extra></extra>",
    }


def _axes(y_title: str) -> dict[str, Any]:
    clear, axis = "rgba(0,0,0,0)", {"zeroline": False, "automargin": True, "ticks": "outside", "tickcolor": GREY}
    return {
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"family": "system-ui, -apple-system, Liberation Sans, DejaVu Sans, sans-serif", "size": 13},
        "hoverlabel": HOVER,
        "hovermode": "closest",
        "height": 460,
        "margin": _margin(0),
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        "xaxis": axis | {"title": {"text": "kept FLOPs", "standoff": 6}, "ticksuffix": " %"},
        "yaxis": axis | {"title": {"text": y_title}, "ticksuffix": " %"},
    }


def _margin(rows: int) -> dict[str, int]:
    return {"l": 16, "r": 16, "t": 14 + 17 * rows, "b": 44}


def _figure(
    data: list[Any], layout: dict[str, Any], targets: Sequence[Target], dense_flops: int, level: float | None
) -> Figure:
    """With a dashed line at the dense accuracy, and a dotted one per target with its label above."""
    kept = [100 * flops / dense_flops for _, flops in targets]
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1, "dash": "dot"}}
    layout["shapes"] = [line | {"x0": x, "x1": x} for x in kept]
    if level is not None:
        across = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": 100 * level, "y1": 100 * level}
        layout["shapes"].append(line | across | {"line": {"color": GREY, "width": 1, "dash": "dash"}})
    names = [plot_text(f"target {shorten(asked, 12)}") for asked, _ in targets]
    known = [x for trace in data for x in trace["x"]] + kept
    span = max(1.0, max(known) - min(known))
    # The share of the figure's width that a label of twelve letters takes, on a page and on a phone.
    layout |= _labels(names, kept, 0.12 * span)
    height = 440 + 19 * max(0, len(data) - 3)  # a phone's legend takes a line each: not at the plot's expense
    return {"data": data, "layout": layout, "narrow": {"height": height} | _labels(names, kept, 0.34 * span)}


def _labels(names: Sequence[str], kept: Sequence[float], gap: float) -> dict[str, Any]:
    """Labels above the figure, in as many rows as it takes to keep them apart, and the room for them."""
    rows = stagger(kept, gap)
    label = {"yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
    annotations = [
        label | {"x": x, "yshift": 17 * row, "text": name} for x, row, name in zip(kept, rows, names, strict=True)
    ]
    return {"annotations": annotations, "margin": _margin(1 + max(rows, default=-1))}
