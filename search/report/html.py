"""The shell that every page shares: one self-contained file, plain type, tables that sort by a click.

Everything handed in as text is escaped here; only what is already `Markup` is not.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from plotly.offline import get_plotlyjs

from models.errors import printable_text
from search.results.figure_text import plain_values


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


class Cell(NamedTuple):
    """What a table shows, the figure it sorts by (None sorts last), and how many columns it fills."""

    text: str
    value: float | None = None
    span: int = 1


def escape(text: object) -> Markup:
    """HTML of any text; `Markup` passes as it is. Unpaired surrogates and control characters become U+FFFD."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(printable_text(str(text))))


def plot_text(text: object) -> str:
    """Text as plotly shows it literally: it renders a few tags, decodes `&lt; &gt; &amp;`, and fills in `%{...}`."""
    return html.escape(printable_text(str(text)), quote=False).replace("%{", "%&#123;")


def data_script(name: str, data: Any) -> Markup:
    """`data` as JSON for the page's scripts; nothing in it can end the element."""
    text = json.dumps(plain_values(data), allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json" id="{escape(name)}">{text}</script>')


class Column(NamedTuple):
    heading: str
    kind: Literal["word", "figure", "long"] = "word"
    """`figure`: right-aligned, sorts by value; `long`: text that may wrap."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], name: str) -> Markup:
    """A table that sorts by a click on a heading."""
    heads = "".join(
        f'<th scope="col" class="{column.kind}"><button type="button">{_heading(column)}</button></th>'
        for column in columns
    )
    body = "".join(f"<tr>{''.join(map(_cell, row, columns))}</tr>\n" for row in rows)
    return Markup(
        f'<div class="scroll"><table class="sortable" id="{escape(name)}"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(column: Column) -> Markup:
    return escape(column.heading.replace(", ", ",\u00a0"))  # a unit stays with its name


def _cell(cell: Cell, column: Column) -> str:
    key = "" if cell.value is None else f' data-sort="{escape(cell.value)}"'
    span = f' colspan="{cell.span}"' if cell.span > 1 else ""
    kind = "long" if cell.span > 1 else column.kind
    return f'<td class="{kind}"{key}{span}>{escape(cell.text)}</td>'


def code_block(command: str) -> Markup:
    """A command with a button that copies it."""
    button = '<button type="button" class="copy">Copy</button>'
    return Markup(f'<div class="code"><pre><code>{escape(command)}</code></pre>{button}</div>')


def section(name: str, heading: str, *parts: str) -> Markup:
    return Markup(f'<section id="{escape(name)}"><h2>{escape(heading)}</h2>\n' + "\n".join(parts) + "</section>\n")


def plot(name: str, label: str, figure: Mapping[str, Any]) -> Markup:
    """A place where `page` draws a figure, and what a screen reader says of it."""
    place = f'<div class="plot" id="{escape(name)}" role="img" aria-label="{escape(label)}"></div>'
    return Markup(place + data_script(f"{name}-data", figure))


def page(title: str, body: Markup, css: str = "", script: str = "", plots: bool = True) -> str:
    """A whole page. Its policy forbids the browser every request; plotly.js, 4.8 MB, is inside when `plots`."""
    library = f"<script>{get_plotlyjs()}</script>" if plots else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{CSS}{css}</style>
</head>
<body>
<main>
{body}</main>
{library}
<script>{SCRIPT}
{PLOT_SCRIPT if plots else ""}
{script}</script>
</body>
</html>
"""


# plotly.js styles its elements and draws downloads into data and blob images; it compiles code for 3-D plots alone.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

CSS = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2024; --soft: #5d666f; --line: #dfe3e7; --tint: #f5f7f9;
  --accent: #0060a8; --warn: #a33b00;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a8548b; }
@media (prefers-color-scheme: dark) { :root { --bg: #15181b; --fg: #e6e9ec; --soft: #9aa4ad; --line: #30363c;
  --tint: #1d2125; --accent: #6db8f2; --warn: #f0a070;
  --c0: #56a8dc; --c1: #e88a4c; --c2: #3fc29b; --c3: #d490bd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", "DejaVu Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 77rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p { margin: .4rem 0 .9rem; max-width: 46rem; overflow-wrap: anywhere; }
.soft, footer { color: var(--soft); }
.warn { border-left: 3px solid var(--warn); padding-left: .75rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .8rem 0 1.4rem; font-size: .9rem; }
a { color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem 1.1rem; break-inside: avoid; min-width: 0; }
.card .big { font-size: 1.75rem; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.card p { margin: .25rem 0; font-size: .92rem; }
.card .asked { color: var(--soft); font-size: .9rem; }
.plot { width: 100%; margin: .6rem 0; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .83rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { text-align: left; padding: .32rem .6rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; line-height: 1.25; }
td.long { white-space: normal; min-width: 10rem; overflow-wrap: anywhere; }
.figure { text-align: right; }
th button { all: unset; cursor: pointer; font-weight: 600; }
button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
code, pre, .mono { font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.code { display: flex; align-items: flex-start; gap: .5rem; background: var(--tint); border: 1px solid var(--line);
  border-radius: .4rem; padding: .6rem .7rem; margin: .3rem 0 1rem; }
.code pre { margin: 0; flex: 1; min-width: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
button.copy, .chips button { font: inherit; font-size: .82rem; color: var(--fg); background: var(--bg);
  border: 1px solid var(--line); border-radius: .35rem; padding: .15rem .6rem; cursor: pointer; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.2rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 480px) { main { padding: 1.2rem .9rem 3rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; } h1 { font-size: 1.4rem; } }
.js-plotly-plot .main-svg { background: transparent !important; }
.js-plotly-plot .infolayer text, .js-plotly-plot .cartesianlayer text, .js-plotly-plot .shapelayer text {
  fill: var(--fg) !important; }
.js-plotly-plot .gridlayer path { stroke: var(--line) !important; }
@media print {
  :root { color-scheme: light; --bg: #fff; --fg: #000; --soft: #444; --line: #ccc; --tint: #f5f5f5;
    --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a8548b; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  nav, button.copy, .modebar { display: none !important; }
  h2, h3 { break-after: avoid; } tr, .plot, .code { break-inside: avoid; } .scroll { overflow: visible; }
  table { font-size: 6.8pt; } th, td { padding-right: .5em; white-space: normal; } td.long { min-width: 0; }
}
"""

# Sorting keeps blanks last whichever way it goes; figures sort by value, the rest as text with its numbers in order.
SCRIPT = """
"use strict";
const collator = new Intl.Collator("en", { numeric: true });
function sortBy(head) {
  const rows = head.closest("table").tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending", figure = head.classList.contains("figure");
  const key = row => {
    const cell = row.cells[column];  // missing where a reason fills the columns of figures
    return cell?.dataset.sort ?? (figure ? "" : cell?.textContent ?? "");
  };
  const order = (a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    return (down ? -1 : 1) * (figure ? x - y : collator.compare(x, y));
  };
  rows.append(...[...rows.rows].sort(order));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}
async function copy(button) {
  const code = button.parentNode.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(code); button.textContent = "Selected"; }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
document.addEventListener("click", event => {
  const head = event.target.closest("table.sortable th"), button = event.target.closest("button.copy");
  if (head) sortBy(head);
  if (button) copy(button);
});
"""

# Unless told not to, plotly offers to send a figure to its makers' server. Paper is narrower than most windows, and
# plotly draws at a fixed width: figures are redrawn for it and back.
PLOT_SCRIPT = """
function draw(place) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  if (place.clientWidth < 560 && figure.narrow) figure.layout = Object.assign(figure.layout, figure.narrow);
  return Plotly.newPlot(place, figure.data, figure.layout,
    { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
      displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
}
document.querySelectorAll(".plot").forEach(draw);
addEventListener("beforeprint", () => document.querySelectorAll(".js-plotly-plot").forEach(
  place => Plotly.relayout(place, { autosize: false, width: 680 })));
addEventListener("afterprint", () => document.querySelectorAll(".js-plotly-plot").forEach(
  place => Plotly.relayout(place, { autosize: true, width: null })));
"""
