"""Figures of the report with a line for every site: what compressing it alone does, as measured or as predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from plotly.colors import sample_colorscale

from models.tasks.metric import Metric
from search.report.figures import AXIS, COLORS, Figure, axes_layout, hover_text, plain_layout, plot_margins, plot_text
from search.results.figure_text import shorten_middle


def sensitivity_figure(scan: pd.DataFrame, metric: Metric) -> Figure:
    """One line per site of one method: how the score suffers when that site alone is compressed."""
    return _site_lines(
        scan, lambda lines: _measured_trace(lines, metric), axes_layout(", nothing fine-tuned", metric)["yaxis"]
    )


def predicted_figure(predicted: pd.DataFrame) -> Figure:
    """One line per site of one method: the damage that it predicts when that site alone is compressed."""
    return _site_lines(
        predicted,
        _predicted_trace,
        AXIS | {"title": {"text": "predicted damage"}, "type": "log", "exponentformat": "power"},
    )


def _site_lines(
    points: pd.DataFrame, trace_of: Callable[[pd.DataFrame], dict[str, Any]], vertical: dict[str, Any]
) -> Figure:
    """A line for every site against strength; `trace_of` gives what is particular to one site's points."""
    sites = list(dict.fromkeys(points["site"]))
    places = [0.1 + 0.8 * index / max(1, len(sites) - 1) for index in range(len(sites))]
    # A rainbow, which keeps neighbours in the network alike, where the palette would repeat itself.
    colors = sample_colorscale("Turbo", places) if len(sites) > len(COLORS) else COLORS
    data = []
    for site, color in zip(sites, colors, strict=False):
        own = points[points["site"] == site].sort_values("strength")
        line = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plot_text(shorten_middle(str(site), 26)),
            "meta": plot_text(shorten_middle(str(site), 90)),
            "x": own["strength"].astype(float).to_list(),
            "line": {"color": color, "width": 1.5},
            "marker": {"color": color, "size": 5},
        }
        data.append(line | trace_of(own))
    layout = plain_layout() | {"height": 480, "yaxis": vertical}
    layout["xaxis"] |= {"title": {"text": "strength (0 dense, 1 hardest)", "standoff": 6}, "ticksuffix": ""}
    layout["legend"] = {"x": 1.02, "y": 1, "font": {"size": 11}, "itemsizing": "constant"}
    below = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}, "maxheight": 160}
    return {"data": data, "layout": layout, "narrow": {"legend": below, "height": 560, "margin": plot_margins(0)}}


def _measured_trace(measurements: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    has_loss = bool(measurements["loss"].notna().any())
    return {
        "y": (metric.scale * measurements["score"].astype(float)).to_list(),
        "customdata": [
            [plot_text(setting), loss]
            for setting, loss in zip(measurements["setting"], measurements["loss"].astype(float), strict=True)
        ],
        "hovertemplate": f"<b>%{{meta}}</b><br>%{{customdata[0]}}<br>{hover_text(metric)}"
        + (", loss %{customdata[1]:.3f}" if has_loss else "")
        + "<extra></extra>",
    }


def _predicted_trace(predictions: pd.DataFrame) -> dict[str, Any]:
    return {
        "y": predictions["damage"].astype(float).to_list(),
        "customdata": [[plot_text(setting)] for setting in predictions["setting"]],
        "hovertemplate": "<b>%{meta}</b><br>%{customdata[0]}<br>predicted damage %{y:.3~g}<extra></extra>",
    }
