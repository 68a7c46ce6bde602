"""`report.html`: the answer first, then everything that it rests on; one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from search.files.atomic import atomic_write
from search.report import centroids, ratio_bars
from search.report.figures import finals_figure, front_figure, sensitivity_figure
from search.report.html import Cell, Column, Markup, code_block, escape, page, plot, section, table
from search.report.view import RunView
from search.results.best import Best
from search.results.figure_text import percent, points, shorten, si
from search.results.tables import figure_or_none, records


def write_report(path: Path, run: RunView) -> None:
    """Write the page of `run` to `path`, whole or not at all."""
    atomic_write(path, report_html(run))


def report_html(run: RunView) -> str:
    answers = [(asked, flops, run.tables.best(asked)) for asked, flops in run.targets]
    sections = [_front(run), _finals(run), _ratios(run, answers), _centroids(run), _sensitivity(run),
                _candidates(run), _reproduce(run), _skipped(run), _facts(run)]  # fmt: skip
    links = [(name, heading) for name, heading, content in sections if content]
    nav = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading in links)
    body = Markup(
        f"<h1>{escape(run.title)}</h1>\n<p class=soft>{escape(run.created)}</p>\n<nav>{nav}</nav>\n"
        + _headline(run, answers)
        + "".join(section(name, heading, content) for name, heading, content in sections if content)
    )
    return page(run.title, body, css=ratio_bars.CSS + centroids.CSS, script=ratio_bars.SCRIPT)


# ---- the answer


def _headline(run: RunView, answers: list[tuple[str, int | None, Best | None]]) -> str:
    dense, frame = run.dense, run.tables.candidates
    known = [("test set", dense.test_accuracy), ("search split", dense.search_accuracy)]
    figures = [f"{si(dense.flops)} FLOPs", f"{si(dense.params)} parameters", si(dense.bytes, "B")]
    figures += [f"{percent(value)} % on the {where}" for where, value in known if value is not None]
    unique = frame.drop_duplicates("key")
    failures = int((unique["status"] == "failed").sum())
    effort = (
        f"{len(unique)} candidates tried in {unique['seconds'].sum():,.0f} s of the workers' time, {failures} failed."
    )
    cards = "".join(_card(run, *answer) for answer in answers)
    remarks = "".join(f"<p>{escape(remark[:1].upper() + remark[1:])}.</p>\n" for remark in run.remarks)
    facts = f"<p>Dense network: {escape(', '.join(figures))}. {escape(effort)}</p>\n"
    return f'<div class="cards">{cards}</div>\n{remarks}{facts}'


def _card(run: RunView, asked: str, flops: int | None, best: Best | None) -> str:
    most = f"{si(flops)} FLOPs" if flops is not None and "+" not in asked else run.limits[asked]
    head = f'<div class="card"><div class="asked">Target {escape(asked)}: at most {escape(most)}</div>'
    if best is None:
        return head + "<p>No candidate succeeded.</p></div>"
    line = best.line
    spread = f" ± {percent(best.std)}" if best.std is not None else ""
    against = run.dense.test_accuracy if best.on_test else run.dense.search_accuracy
    change = "" if against is None else f"{points(best.accuracy - against)} points against dense; "
    seeds = f"test set, n\u00a0=\u00a0{line['seeds']}" if best.on_test else "search split: it ranks, it is not a result"
    smaller = f"; file {line['compression']:.2f}× smaller" if pd.notna(line["compression"]) else ""
    kept = f"kept {percent(line['kept_flops'])} % of FLOPs ({si(line['flops'])}){smaller}"
    facts = [f"{change}{seeds}", kept, f"{line['method']}, {line['strategy']}, candidate {line['candidate']}"]
    facts.append(f"Why this one: {best.reason}")
    if line["candidate"] in run.latencies:
        facts.append(f"Latency: {run.latencies[line['candidate']]}")
    if best.rival is not None:
        other = best.rival
        figures = f"{percent(other['test_accuracy'])} ± {percent(other['test_std'])} %"
        facts.append(f"Within the noise of {other['method']}, {other['strategy']}: {figures}")
    text = "".join(f"<p>{escape(fact)}</p>" for fact in facts)
    return f'{head}<div class="big">{percent(best.accuracy)}{spread} %</div>{text}</div>'


# ---- sections: (anchor, heading, content); one without content is left out

Section = tuple[str, str, str]


def _front(run: RunView) -> Section:
    heading = "Front"
    figure = front_figure(run.tables.candidates, run.tables.front, run.dense, run.lines)
    if figure is None:
        return "front", heading, "<p>No candidate was judged, so there is no front; the reasons are in the table.</p>"
    text = (
        "<p>Every candidate that was judged. The stepped line joins those that no other beats with fewer FLOPs and "
        "more accuracy. Accuracy on the search split ranks candidates, drift those that it cannot tell apart; results "
        "are those on the test set.</p>"
    )
    return "front", heading, text + plot("front-plot", "Kept FLOPs against search accuracy", figure)


def _finals(run: RunView) -> Section:
    heading = "Test results"
    if run.tables.finals.empty:
        return "finals", heading, "<p>No finalist has met the test set in this run.</p>"
    text = (
        "<p>Finalists, fine-tuned for longer and judged on the test set once per seed. Mean ± standard deviation over "
        "seeds; Δ in percentage points against the dense network. Blank: not measured. "
        "Tried and search: candidates, and the workers' seconds, that finding the allocation took.</p>"
    )
    figure = finals_figure(run.tables.finals, run.dense, run.lines)
    drawn = plot("finals-plot", "Kept FLOPs against test accuracy of finalists", figure) if figure else ""
    timed = bool(run.tables.finals["latency_ms"].notna().any())
    lines = [_final_cells(line) + _latency_cells(line) * timed for line in records(run.tables.finals)]
    columns = FINAL_COLUMNS + LATENCY_COLUMNS * timed
    return "finals", heading, text + drawn + table(columns, lines, "finals-table")


FINAL_COLUMNS = [
    *(Column(heading) for heading in ("candidate", "method", "strategy", "target")),
    *(
        Column(heading, "figure")
        for heading in ("test accuracy, %", "Δ, points", "seeds", "asked, %", "kept, %", "FLOPs", "params", "size",
                        "smaller by", "epochs", "time, s", "tried", "search, s")
    ),
]  # fmt: skip
LATENCY_COLUMNS = [Column("latency, ms", "figure"), Column("predicted, ms", "figure"), Column("dense, ms", "figure"),
                   Column("measured on", "long")]  # fmt: skip


def _final_cells(line: Mapping[str, Any]) -> list[Cell]:
    std = figure_or_none(line["test_std"])
    seeds = f"{line['seeds']}" + (f" ({line['failed']} failed)" if line["failed"] else "")
    return [
        *_names(line, "candidate", "method", "strategy", "target"),
        _figure(
            line["test_accuracy"], percent(line["test_accuracy"]) + (f" ± {percent(std)}" if std is not None else "")
        ),
        _figure(line["delta_points"], points(line["delta_points"] / 100)),
        Cell(seeds, int(line["seeds"])),
        _figure(line["kept_asked"], percent(line["kept_asked"])),
        _figure(line["kept_flops"], percent(line["kept_flops"])),
        *_sizes(line),
        _figure(line["epochs"], f"{line['epochs']:.3g}"),
        _figure(line["seconds"], f"{line['seconds']:,.0f}"),
        Cell(f"{line['searched']}", int(line["searched"])),
        _figure(line["search_seconds"], f"{line['search_seconds']:,.0f}"),
    ]


def _latency_cells(line: Mapping[str, Any]) -> list[Cell]:
    times = [_figure(line[name], f"{line[name]:.3g}") for name in ("latency_ms", "predicted_latency_ms",
                                                                   "dense_latency_ms")]  # fmt: skip
    return [*times, Cell("" if pd.isna(line["latency_device"]) else str(line["latency_device"]))]


def _candidates(run: RunView) -> Section:
    on_front = set(run.tables.front["key"])
    lines = [_candidate_cells(line, on_front) for line in records(run.tables.candidates)]
    text = "<p>A click on a heading sorts. ● marks the front.</p>"
    return "candidates", "Candidates", text + table(CANDIDATE_COLUMNS, lines, "candidates-table")


CANDIDATE_COLUMNS = [
    *(Column(heading) for heading in ("front", "candidate", "stage", "method", "strategy", "target")),
    *(Column(heading, "figure") for heading in ("seed", "epochs", "time, s")),
    Column("status"),
    *(
        Column(heading, "figure")
        for heading in ("kept, %", "search, %", "loss", "drift", "test, %", "FLOPs", "params", "size", "smaller by")
    ),
]


def _candidate_cells(line: Mapping[str, Any], on_front: set[str]) -> list[Cell]:
    """A failed candidate has its reason in the place of its figures."""
    front = line["stage"] == "search" and line["key"] in on_front
    who = [Cell("●" if front else ""), *_names(line, "candidate", "stage", "method", "strategy", "target")]
    who += [Cell(str(line["seed"]), int(line["seed"])), *_effort(line), Cell(line["status"])]
    if line["status"] != "ok":
        why = "" if pd.isna(line["reason"]) else shorten(str(line["reason"]), 400)
        return [*who, Cell(why, span=len(CANDIDATE_COLUMNS) - len(who))]
    return [
        *who,
        *(_figure(line[name], percent(line[name])) for name in ("kept_flops", "accuracy")),
        *(_figure(line[name], f"{line[name]:.3f}") for name in ("loss", "drift")),
        _figure(line["test_accuracy"], percent(line["test_accuracy"])),
        *_sizes(line),
    ]


def _names(line: Mapping[str, Any], *columns: str) -> list[Cell]:
    return [Cell(shorten(str(line[column]), 40)) for column in columns]


def _sizes(line: Mapping[str, Any]) -> list[Cell]:
    units = {"flops": "", "params": "", "bytes": "B"}
    sizes = [_figure(line[name], si(line[name], unit)) for name, unit in units.items()]
    return [*sizes, _figure(line["compression"], f"{line['compression']:.2f}×")]


def _effort(line: Mapping[str, Any]) -> list[Cell]:
    return [_figure(line["epochs"], f"{line['epochs']:.3g}"), _figure(line["seconds"], f"{line['seconds']:,.1f}")]


def _ratios(run: RunView, answers: list[tuple[str, int | None, Best | None]]) -> Section:
    if not run.allocations:
        return "ratios", "", ""
    best = [shown for _, _, answer in answers if answer and (shown := _shown_id(run, answer.line))]
    order = list(dict.fromkeys([*best, *run.allocations]))
    names = {candidate: _describe(run, candidate) for candidate in order}
    text = (
        "<p>How hard each site is compressed: the longer the bar, the harder; none is dense. Choose up to four "
        "candidates, or click a point of the front.</p>"
    )
    bars = ratio_bars.ratio_bars(names, run.allocations, list(dict.fromkeys(best)) or order[:1])
    return "ratios", "Ratios per site", text + bars


def _shown_id(run: RunView, line: Mapping[str, Any]) -> str | None:
    """The candidate whose bars are those of `line`: itself, or the searched one with the same allocation."""
    candidates = run.tables.candidates
    same = candidates[(candidates["method"] == line["method"]) & (candidates["allocation"] == line["allocation"])]
    return next((one for one in (line["candidate"], *same["candidate"]) if one in run.allocations), None)


def _describe(run: RunView, candidate: str) -> str:
    rows = run.tables.candidates[run.tables.candidates["candidate"] == candidate]
    if rows.empty:
        return candidate
    row = rows.iloc[0]
    figure = f", kept {percent(row['kept_flops'])} %" if pd.notna(row["kept_flops"]) else ""
    return f"{candidate}: {row['method']}, {row['strategy']}{figure}"


def _centroids(run: RunView) -> Section:
    parts = [
        f"<h3>{escape(_describe(run, candidate))}</h3>{centroids.centroids_image(books)}"
        for candidate, books in run.centroids.items()
        if books
    ]
    text = (
        "<p>The kernels that each codebook holds, most used first, and how many kernels of the network use each. Blue "
        "is negative, red positive. Before fine-tuning, which moves centroids but not who uses them.</p>"
    )
    return "centroids", "Centroids", text + "".join(parts) if parts else ""


def _sensitivity(run: RunView) -> Section:
    if run.sensitivity is None or run.sensitivity.empty:
        return "sensitivity", "", ""
    hint = "A click on a name hides its line, a double click the others."
    parts = [f"<p>Each site compressed alone, without fine-tuning. {hint}</p>"]
    for index, (method, scan) in enumerate(run.sensitivity.groupby("method", sort=False)):
        images = " or ".join(f"{count:,}" for count in sorted(set(scan["images"])))
        parts.append(f"<h3>{escape(method)}, judged on {escape(images)} images</h3>")
        parts.append(
            plot(f"sensitivity-plot-{index}", "Accuracy when one site alone is compressed", sensitivity_figure(scan))
        )
    return "sensitivity", "Sensitivity", "".join(parts)


def _reproduce(run: RunView) -> Section:
    steps = [("Run it again", run.command), ("Go on from where it stopped", run.resume_command),
             ("Export a candidate", run.export_command)]  # fmt: skip
    content = "".join(f"<h3>{name}</h3>{code_block(command)}" for name, command in steps if command)
    return "reproduce", "How to reproduce", content


def _skipped(run: RunView) -> Section:
    reasons: dict[str, list[str]] = {}
    for layer, reason in run.skipped.items():
        reasons.setdefault(reason, []).append(layer)
    lines = [
        [Cell(", ".join(layers)), Cell(str(len(layers)), len(layers)), Cell(why)] for why, layers in reasons.items()
    ]
    columns = [Column("layers", "long"), Column("how many", "figure"), Column("why", "long")]
    return "dense", "Left dense", table(columns, lines, "dense-table") if lines else ""


def _facts(run: RunView) -> Section:
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in run.facts.items())
    return "facts", "Facts", f"<dl>{terms}</dl>" if terms else ""


# ---- pieces


def _figure(value: Any, text: str) -> Cell:
    """A figure's cell, blank if it is missing."""
    return Cell("") if pd.isna(value) else Cell(text, float(value))
