"""What every page is made of: texts and data that read back and cannot act, tables, and templates that are there."""

from __future__ import annotations

import html
import json
import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from page_reader import Reader

from models.errors import printable_text
from search.report.rendering import TEMPLATES, Column, figure_column, make_table, text_column

ROOT = Path(__file__).parents[3]
IMPORT = '{% import "report/templates/pieces.html" as pieces %}'


@given(st.text())
def test_printed_text_reads_back(text: str) -> None:
    printed = TEMPLATES.from_string("{{ text }}").render(text=text)
    assert html.unescape(printed) == printable_text(text)
    assert not set(printed) & set("<>\"'")


@given(st.dictionaries(st.text(), st.lists(st.one_of(st.text(), st.floats(), st.none()))))
def test_data_reads_back_and_cannot_end_its_element(data: dict[str, list[object]]) -> None:
    script = TEMPLATES.from_string(IMPORT + '{{ pieces.data("d", data) }}').render(data=data)
    inside = script.removeprefix('<script type="application/json" id="d">').removesuffix("</script>")
    assert not set(inside) & set("<>&")
    blank = [[None if isinstance(x, float) and not math.isfinite(x) else x for x in xs] for xs in data.values()]
    assert list(json.loads(inside).values()) == blank


@pytest.mark.parametrize("template", ["{{ misspelt }}", "{{ run.misspelt }}", "{% if misspelt %}{% endif %}"])
def test_a_name_that_was_not_given_raises(template: str) -> None:
    with pytest.raises(UndefinedError, match="misspelt"):
        TEMPLATES.from_string(template).render(run={"title": "a title"})


def test_tables_show_figures_blanks_and_reasons() -> None:
    columns = [
        text_column("name").with_short_text(),
        figure_column("kept, %", "kept", "{:.1f}".format),
        Column("device", lambda record: record["device"], kind="long"),
    ]
    records = [
        {"name": "a", "kept": 50.04, "device": "<cpu>", "reason": None},
        {"name": "b", "kept": math.nan, "device": "gpu", "reason": None},
        {"name": "c" * 99, "kept": 1.0, "device": "gpu", "reason": "out of memory"},
    ]
    table = make_table("t", columns, records, lambda record: record["reason"], reason_from=1)
    page = TEMPLATES.from_string(IMPORT + "{{ pieces.table(table) }}").render(table=table)
    assert "kept,\u00a0%" in page
    assert (
        '<td class="word">a</td><td class="figure" data-sort="50.04">50.0</td><td class="long">&lt;cpu&gt;</td>' in page
    )
    assert '<td class="word">b</td><td class="figure"></td><td class="long">gpu</td>' in page
    assert f'<td class="word">{"c" * 19}…{"c" * 20}</td><td class="long" colspan="2">out of memory</td>' in page
    assert Reader(page).tags["tr"] == 4


def test_templates_are_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    packages = [path.parent for name in ("search", "methods", "models") for path in (ROOT / name).rglob("__init__.py")]
    packaged = {path for package in packages for pattern in patterns for path in package.glob(pattern)}
    pages = {path for name in ("search", "methods", "models") for path in (ROOT / name).rglob("*")
             if path.suffix in (".html", ".css", ".js")}  # fmt: skip
    assert {path.suffix for path in pages} == {".html", ".css", ".js"}
    assert pages - packaged == set()
