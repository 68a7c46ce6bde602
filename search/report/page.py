"""`report.html`: what `templates/report.html` shows of a run; the answer first, then everything that it rests on."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from models.tasks.metric import ACCURACY, Metric
from models.wording import plural
from search.files.atomic import atomic_write
from search.report.cards import make_card, named_score
from search.report.centroids import centroids_png
from search.report.figures import finals_figure, front_figure
from search.report.ratio_bars import ratio_data
from search.report.rendering import (
    Column,
    Plot,
    Record,
    Table,
    figure_column,
    make_table,
    render_page,
    text_column,
)
from search.report.sensitivity_figures import predicted_figure, sensitivity_figure
from search.report.view import RunView
from search.results.dense import Dense
from search.results.figure_text import delta_text, format_figure, percent_text, score_text, shorten_middle, si_text
from search.results.tables import table_records


def write_report(path: Path, run: RunView) -> None:
    """Write the page of `run` to `path`, whole or not at all."""
    atomic_write(path, report_html(run))


def report_html(run: RunView) -> str:
    answers, metric = {target: run.tables.best(target) for target, _ in run.targets}, run.dense.metric
    front = front_figure(run.tables.candidates, run.tables.front, run.dense, run.drawn_targets, run.styles)
    finals = finals_figure(run.tables.finals, run.dense, run.drawn_targets, run.styles)
    return render_page(
        "report/templates/report.html",
        run=run,
        title=run.title,
        created=run.created,
        cards=[make_card(run, target, flops, answers[target]) for target, flops in run.targets],
        summary=_summarize_run(run),
        metric=metric,
        has_drift=bool(run.tables.candidates["drift"].notna().any()),
        front=front and Plot("front-plot", f"Kept FLOPs against search {metric.name}", front),
        finals=_finals_table(run.tables.finals, run.dense),
        finals_plot=finals and Plot("finals-plot", f"Kept FLOPs against test {metric.name} of finalists", finals),
        ratios=_ratio_choices(run, [best.record for best in answers.values() if best]),
        centroids=_centroid_pictures(run),
        sensitivity=[*_sensitivity_scans(run), *_predicted_curves(run)],
        candidates=_candidates_table(run),
        left_dense=_left_dense_table(run.skipped),
    )


def _summarize_run(run: RunView) -> str:
    """The dense network and what the search took, in two sentences."""
    dense = run.dense
    scores = [("test set", dense.test_score), ("search split", dense.search_score)]
    figures = [f"{si_text(dense.flops)} FLOPs", f"{si_text(dense.params)} parameters", si_text(dense.bytes, "B")]
    figures += [
        f"{named_score(score, dense.metric)} {dense.metric.unit}".rstrip() + f" on the {split}"
        for split, score in scores
        if score is not None
    ]
    figures += [
        f"{other.name} {other.value_text(dense.other_scores[f'test_{other.name}'])} on the test set"
        for other in dense.others
        if f"test_{other.name}" in dense.other_scores
    ]
    # A candidate that two strategies propose has two rows, but was judged once.
    candidates = run.tables.candidates.drop_duplicates("key")
    failures = int((candidates["status"] == "failed").sum())
    return (
        f"Dense network: {', '.join(figures)}. {plural(len(candidates), 'candidate')} tried in "
        f"{candidates['seconds'].sum():,.0f} s of the workers' time, {failures} failed."
    )


# ---- tables


def _tested_column(metric: Metric) -> Column:
    def tested_text(record: Record) -> str:
        mean, std = score_text(record["test_score"], metric), record["test_std"]
        return mean if pd.isna(std) else f"{mean} ± {metric.spread_text(std)}"

    return Column(f"test {metric.heading}", tested_text, "test_score", "figure")


def _seeds_text(record: Record) -> str:
    return f"{record['seeds']}" + (f" ({record['failed']} failed)" if record["failed"] else "")


CANDIDATE = text_column("candidate")
NAMES = [text_column(name).with_short_text() for name in ("method", "strategy", "target")]
SIZES = [
    figure_column("FLOPs", "flops", si_text),
    figure_column("params", "params", si_text),
    figure_column("size", "bytes", lambda size: si_text(size, "B")),
    figure_column("smaller by", "compression", "{:.2f}×".format),
]
EPOCHS = figure_column("epochs", "epochs", "{:.3g}".format)
FINAL_FIGURES = [
    Column("seeds", _seeds_text, "seeds", "figure"),
    figure_column("asked, %", "kept_asked", percent_text),
    figure_column("kept, %", "kept_flops", percent_text),
    *SIZES,
    EPOCHS,
    figure_column("time, s", "seconds", "{:,.0f}".format),
    figure_column("tried", "searched"),
    figure_column("search, s", "search_seconds", "{:,.0f}".format),
]
LATENCY_COLUMNS = {
    "latency_ms": "latency, ms",
    "predicted_latency_ms": "predicted, ms",
    "dense_latency_ms": "dense, ms",
}
CANDIDATE_NAMES = [
    Column("front", lambda record: "●" if record["on_front"] else ""),
    CANDIDATE,
    text_column("stage"),
    *NAMES,
    figure_column("seed", "seed"),
    EPOCHS,
    figure_column("time, s", "seconds", "{:,.1f}".format),
    text_column("status"),
]


def _candidate_figures(run: RunView) -> list[Column]:
    """Loss and drift of a task that measures neither have no columns."""
    metric, candidates = run.dense.metric, run.tables.candidates
    unit = f", {metric.unit}" if metric.unit else ""
    measured = [name for name in ("loss", "drift") if candidates[name].notna().any()]
    return [
        figure_column("kept, %", "kept_flops", percent_text),
        figure_column(f"search{unit}", "score", metric.number_text),
        *other_metric_columns("score", "search", run.dense, candidates),
        *(figure_column(name, name, "{:.3f}".format) for name in measured),
        figure_column(f"test{unit}", "test_score", metric.number_text),
        *other_metric_columns("test_score", "test", run.dense, candidates),
        *SIZES,
    ]


def other_metric_columns(column: str, title: str, dense: Dense, table: pd.DataFrame) -> list[Column]:
    """Of the metrics that do not rank, as far as a table has them."""
    columns = [(other, f"{column}:{other.name}") for other in dense.others]
    return [
        figure_column(f"{title} {other.heading}".strip(), name, other.number_text)
        for other, name in columns
        if name in table
    ]


def _finals_table(finals: pd.DataFrame, dense: Dense) -> Table:
    metric = dense.metric
    delta = figure_column(metric.delta_heading, "delta", lambda difference: delta_text(difference, metric))
    scores = [_tested_column(metric), delta, *other_metric_columns("test_score", "test", dense, finals)]
    columns = [CANDIDATE, *NAMES, *scores, *FINAL_FIGURES, *_latency_columns(finals)]
    return make_table("finals-table", columns, table_records(finals))


def _latency_columns(finals: pd.DataFrame) -> list[Column]:
    """Those that have figures; of several devices each by its name."""
    columns = []
    for name in map(str, finals.columns):
        measure, _, device = name.partition(":")
        if measure in LATENCY_COLUMNS and finals[name].notna().any():
            heading = LATENCY_COLUMNS[measure] + (f", {device}" if device else "")
            columns.append(figure_column(heading, name, "{:.3g}".format))
    return [*columns, text_column("latency_device", "latency on", "long")] if columns else []


def _candidates_table(run: RunView) -> Table:
    """Every candidate; one that failed has its reason in the place of its figures."""

    def failure_reason(record: Record) -> str | None:
        return None if record["status"] == "ok" else shorten_middle(format_figure(record["reason"]), 400)

    table = run.tables.candidates
    on_front = table["key"].isin(run.tables.front["key"]) & (table["stage"] == "search")
    return make_table(
        "candidates-table",
        CANDIDATE_NAMES + _candidate_figures(run),
        table_records(table.assign(on_front=on_front)),
        failure_reason,
        reason_from=len(CANDIDATE_NAMES),
    )


def _left_dense_table(reasons: Mapping[str, str]) -> Table:
    """A row per reason, with the layers that it keeps dense."""
    layers_by_reason: dict[str, list[str]] = {}
    for layer, reason in reasons.items():
        layers_by_reason.setdefault(reason, []).append(layer)
    columns = [
        text_column("layers", kind="long"),
        figure_column("how many", "count"),
        text_column("why", kind="long"),
    ]
    reasons_with_layers = [
        {"layers": ", ".join(layers), "count": len(layers), "why": reason}
        for reason, layers in layers_by_reason.items()
    ]
    return make_table("dense-table", columns, reasons_with_layers)


# ---- pictures


def _ratio_choices(run: RunView, answers: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What `report.js` draws as bars: every candidate with known sites, the answers first and chosen."""
    if not run.allocations:
        return None
    chosen = [candidate for answer in answers if (candidate := _candidate_with_sites(run, answer))]
    order = list(dict.fromkeys([*chosen, *run.allocations]))
    names = {candidate: _describe_candidate(run, candidate) for candidate in order}
    return ratio_data(names, run.allocations, list(dict.fromkeys(chosen)) or order[:1])


def _candidate_with_sites(run: RunView, answer: Mapping[str, Any]) -> str | None:
    """The candidate whose bars are those of an answer: itself, or the searched one with the same allocation."""
    table = run.tables.candidates
    same = table[(table["method"] == answer["method"]) & (table["allocation"] == answer["allocation"])]
    candidates = (answer["candidate"], *same["candidate"])
    return next((candidate for candidate in candidates if candidate in run.allocations), None)


def _describe_candidate(run: RunView, candidate: str) -> str:
    matches = run.tables.candidates[run.tables.candidates["candidate"] == candidate]
    if matches.empty:
        return candidate
    record = matches.iloc[0]
    share = f", kept {percent_text(record['kept_flops'])} %" if pd.notna(record["kept_flops"]) else ""
    return f"{candidate}: {record['method']}, {record['strategy']}{share}"


def _centroid_pictures(run: RunView) -> list[dict[str, Any]]:
    return [
        {
            "heading": _describe_candidate(run, candidate),
            "books": len(books),
            "png": base64.b64encode(centroids_png(books)).decode("ascii"),
        }
        for candidate, books in run.centroids.items()
        if books
    ]


def _sensitivity_scans(run: RunView) -> list[dict[str, Any]]:
    """A plot per method that was scanned."""
    if run.sensitivity is None:
        return []
    scans, metric = [], run.dense.metric
    for index, (method, scan) in enumerate(run.sensitivity.groupby("method", sort=False)):
        images = " or ".join(f"{count:,}" for count in sorted(set(scan["images"])))
        label = f"{metric.name.capitalize()} when one site alone is compressed"
        plot = Plot(f"sensitivity-plot-{index}", label, sensitivity_figure(scan, metric))
        noun = "images" if metric == ACCURACY else "inputs"
        scans.append({"heading": f"{method}, judged on {images} {noun}", "plot": plot})
    return scans


def _predicted_curves(run: RunView) -> list[dict[str, Any]]:
    """A plot per method that predicts what its settings do."""
    if run.predicted.empty:
        return []
    return [
        {
            "heading": f"{method}, predicted",
            "plot": Plot(
                f"predicted-plot-{index}", "Predicted damage of one site alone", predicted_figure(predictions)
            ),
        }
        for index, (method, predictions) in enumerate(run.predicted.groupby("method", sort=False))
    ]
