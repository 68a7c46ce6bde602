"""Pages made from templates: each is one self-contained file, whose tables sort by a click.

Templates, CSS and JavaScript lie in the folders `templates` of `search/report/` and `search/leaderboard/`. Every text
is escaped where a template prints it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from models.errors import printable_text
from search.results.figure_text import plain_values, shorten_middle

Record = Mapping[str, Any]  # what a row of a table is about: a candidate, a finalist, a row of a leaderboard


class Cell(NamedTuple):
    """What a table shows, the figure it sorts by (None sorts last), and how many columns it fills."""

    text: str
    value: float | None = None
    span: int = 1


class Column(NamedTuple):
    """A column of a table: its heading, its text for a record, and the figure of the record that it sorts by."""

    heading: str
    text: Callable[[Record], str]
    figure: str | None = None
    kind: Literal["word", "figure", "long"] = "word"
    """`figure`: right-aligned, sorts by value; `long`: text that may wrap."""

    def make_cell(self, record: Record) -> Cell:
        value = record[self.figure] if self.figure else None
        return Cell(self.text(record), None if pd.isna(value) else float(value))

    def with_short_text(self, width: int = 40) -> Column:
        """The same with texts of at most `width` characters: a user's names may be of any length."""
        return self._replace(text=lambda record: shorten_middle(self.text(record), width))


def text_column(name: str, heading: str | None = None, kind: Literal["word", "long"] = "word") -> Column:
    """A column of texts, headed as it is called in the records; blank where there is none."""
    return Column(heading or name, lambda record: "" if pd.isna(record[name]) else str(record[name]), kind=kind)


def figure_column(heading: str, name: str, as_text: Callable[[Any], str] = str) -> Column:
    """A column of figures; blank where the figure is missing."""
    return Column(heading, lambda record: "" if pd.isna(record[name]) else as_text(record[name]), name, "figure")


class Table(NamedTuple):
    name: str
    columns: Sequence[Column]
    rows: list[list[Cell]]


def make_table(
    name: str,
    columns: Sequence[Column],
    records: Iterable[Record],
    reason_of: Callable[[Record], str | None] = lambda record: None,
    reason_from: int = 0,
) -> Table:
    """A table with a row per record.

    Args:
        reason_of: why a record has no figures; the reason fills the columns from `reason_from` on.
    """
    table = Table(name, columns, [])
    for record in records:
        cells = [column.make_cell(record) for column in columns]
        reason = reason_of(record)
        if reason is not None:
            cells[reason_from:] = [Cell(reason, span=len(columns) - reason_from)]
        table.rows.append(cells)
    return table


class Plot(NamedTuple):
    """A figure as plotly.js takes it, the name of its place, and what a screen reader says of it."""

    name: str
    label: str
    figure: Mapping[str, Any]


def render_page(template: str, **values: Any) -> str:
    """A page from a template, named by its path below `search/`; every value that it uses must be given."""
    return TEMPLATES.get_template(template).render(values)


def _printable_value(value: Any) -> Any:
    """Texts without what no page should be sent; markup, such as what a macro returns, stands as it is."""
    return printable_text(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


# A name that a template misspells raises instead of printing nothing.
TEMPLATES = Environment(
    loader=PackageLoader("search", "."),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_printable_value,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["sentence"] = _as_sentence
TEMPLATES.globals["plotly_js"] = get_plotlyjs
# Objects keep their order, and NaN, which JSON does not know, becomes null.
TEMPLATES.policies["json.dumps_function"] = lambda data, **options: json.dumps(plain_values(data), **options)
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
