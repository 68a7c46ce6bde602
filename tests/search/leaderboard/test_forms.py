"""The leaderboard in every format, read back."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from board_fakes import DENSE, add_row, filled, printed
from markdown_it import MarkdownIt

from search.leaderboard.board import Board
from search.leaderboard.forms import boards_record
from search.leaderboard.reported import REPORTED
from search.results.markup import escape_latex
from search.results.tables import table_records


def test_csv_reads_back(path: str, tmp_path: Path, board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(printed(path, tmp_path, "csv"))))
    assert [line["row"] for line in lines] == list(board.frame["row"])
    assert [line["kind"] for line in lines] == ["measured"] * len(lines)
    best = lines[[line["method"] for line in lines].index("kse")]
    assert float(best["accuracy"]) == pytest.approx(0.942)
    assert (best["rank"], best["latency_ms"]) == ("1", "")


def test_json_reads_back(path: str, tmp_path: Path, board: Board) -> None:
    (task,) = json.loads(printed(path, tmp_path, "json"))["tasks"]
    assert task["dense"]["test_accuracy"] == DENSE.test_score
    assert [line["row"] for line in task["rows"]] == list(board.frame["row"])
    refused = next(line for line in task["rows"] if line["note"] and "reach" in line["note"])
    assert refused["accuracy"] is None
    assert refused["rank"] is None


@pytest.mark.parametrize("form", ["table", "md", "tex"])
def test_every_row_is_in_the_text(path: str, tmp_path: Path, board: Board, form: str) -> None:
    text = printed(path, tmp_path, form)
    for line in table_records(board.frame):
        assert line["row"] in text
    spread = "$\\pm$" if form == "tex" else "±"
    assert f"94.20 {spread} 0.10 (3)" in text
    assert not re.search(r"\b(nan|NaN|None|<NA>)\b", text)


def test_markdown_tables_are_whole(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        add_row(ledger, "l1", "0.5", (0.92, 0.921), options={"a|b": "*"}, achieved=0.4991)
    text = printed(path, tmp_path, "md")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in cells}) == 1
    read = [token.type for token in MarkdownIt().enable("table").parse(text)]
    assert read.count("table_open") == 2  # one a band
    assert read.count("tr_open") == len(cells) - 2  # all but the rules below the headings


def test_latex_is_balanced_and_escaped(path: str, tmp_path: Path) -> None:
    assert escape_latex("50 % of a_b & c\\d") == r"50 \% of a\_b \& c\textbackslash{}d"
    filled(path).close()
    text = printed(path, tmp_path, "tex", reported=True)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    for body in re.findall(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in body[1].splitlines():
            if line.endswith(r"\\"):
                assert len(re.split(r"(?<!\\)&", line)) == len(body[0])


def test_reported_rows_are_beside_and_never_ranked(path: str, tmp_path: Path, board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(printed(path, tmp_path, "csv", reported=True))))
    papers = [line for line in lines if line["kind"] == "reported"]
    assert len(papers) == sum(line.network == "resnet56" for line in REPORTED) > 0
    assert {line["rank"] for line in papers} == {""}
    assert all(line["source"] for line in papers)
    assert [line for line in lines if line["kind"] == "measured"] == lines[: len(board.frame)]
    assert "not ranked" in printed(path, tmp_path, "table", reported=True)
    assert "ResRep" not in printed(path, tmp_path, "table")


def test_json_and_text_agree(path: str, tmp_path: Path, board: Board) -> None:
    (task,) = boards_record([board])["tasks"]
    text = printed(path, tmp_path, "table")
    for line in task["rows"]:
        if line["accuracy"] is not None:
            assert f"{100 * line['accuracy']:.2f}" in text
