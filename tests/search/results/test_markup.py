"""What a user's texts become in Markdown, read back by a parser of its own, and in LaTeX and CSV."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from models.errors import one_line
from search.results.csv_tables import inert_cell
from search.results.markup import escape_latex, escape_markdown, markdown_code

TEXTS = ["plain", "# title", "a|b", "`code`", "``two``", "*bold* _it_ __x__", "<script>alert(1)</script>", "[x](http://y)",
         "![x](y)", "&lt;&amp;", "1. one", "- item", "+ item", "> quote", "a\\b\\", "~~gone~~", "$x$", "line\nbreak",
         "naïve 名前", "\x1b[31mred", "---", "===", "| a | b |"]  # fmt: skip


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


@pytest.mark.parametrize("text", TEXTS)
def test_it_stands_as_it_is(text: str) -> None:
    plain = html.escape(one_line(text))
    assert rendered(f"# {escape_markdown(text)}\n") == f"<h1>{plain}</h1>\n"
    assert rendered(f"{escape_markdown(text)}\n") == f"<p>{plain}</p>\n"
    (code,) = re.findall("<code>(.*)</code>", rendered(f"see {markdown_code(text)} there"))
    assert code == html.escape(one_line(text))


@pytest.mark.parametrize("text", TEXTS)
def test_tables_stay_whole(text: str) -> None:
    table = f"| {escape_markdown(text)} | {markdown_code(text, in_table=True)} |\n| --- | --- |\n| x | y |\n"
    heads = re.findall("<th>(.*)</th>", rendered(table))
    plain = html.escape(one_line(text))
    assert heads[0] == plain
    assert heads[1] == f"<code>{plain}</code>"


def test_latex_has_no_command_of_a_users() -> None:
    text = escape_latex("\\input{/etc/passwd} 50% #1 $x$ a_b ^~ <x|y> \x1b[0m")
    assert re.sub(
        r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[&%$#_{}]", "", text
    ) == ("input/etc/passwd 50 1 x ab  xy")


@pytest.mark.parametrize("text", ["=cmd|'/C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1"])
def test_spreadsheets_run_nothing(text: str) -> None:
    assert str(inert_cell(text))[0] == "'"
