"""The leaderboard in terminals of any width."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from board_fakes import TASK, add_row, filled
from rich.console import Console

from models.tasks.metric import ACCURACY
from search.leaderboard.board import Board, read_boards
from search.leaderboard.columns import score_columns, text_columns
from search.leaderboard.rich_tables import print_boards
from search.results.tables import table_records

OWN_METHOD = "my/methods/low_rank.py:LowRank"
OWN_STRATEGY = "my/strategies/greedy.py:greedy_by_layer"
COMMAND = "python run_search.py search --network resnet56"


@pytest.fixture
def own_board(path: str, tmp_path: Path) -> Board:
    with filled(path) as ledger:
        add_row(ledger, OWN_METHOD, "0.5", (0.92, 0.925), strategy=OWN_STRATEGY, options={"rank": 3}, run="mine")
    (board,) = read_boards(path, [TASK], tmp_path)
    board.frame["command"] = pd.array([COMMAND] * len(board.frame), dtype="str")
    return board


def print_wide(board: Board, width: int) -> str:
    text = io.StringIO()
    print_boards([board], Console(file=text, width=width))
    return text.getvalue()


def column_texts(table: list[str], heading: str) -> str:
    """What stands below a heading, one line after the other without spaces between them."""
    (head,) = [line for line in table if line.startswith("rank")]
    start = head.index(heading)
    end = start + len(heading) + next((i for i, char in enumerate(head[start + len(heading) :]) if char != " "), 999)
    return "".join(line[start:end].strip() for line in table[table.index(head) + 1 :])


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_names_and_figures_are_whole_in_every_width(own_board: Board, width: int) -> None:
    text = print_wide(own_board, width)
    assert "…" not in text
    table = text[: text.index("target 0.3")].splitlines()
    assert max(len(line) for line in table if "left out" not in line and "dense" not in line) <= width
    assert OWN_STRATEGY in column_texts(table, "strategy")
    assert OWN_METHOD in column_texts(table, "method")
    for board_row in table_records(own_board.frame):
        assert board_row["row"] in text
        assert score_columns(ACCURACY)[0].text(board_row) in text


def test_columns_that_find_no_room_are_named(own_board: Board) -> None:
    assert "left out, as the terminal is 80 wide: params, smaller by, tried, search, epochs" in print_wide(
        own_board, 80
    )
    wide = print_wide(own_board, 200)
    assert "left out" not in wide
    headings = next(line for line in wide.splitlines() if line.startswith("rank"))
    assert all(column.heading in headings for column in text_columns(ACCURACY) if column.heading != "latency, ms")


def test_rows_name_their_runs_and_where_their_commands_are(own_board: Board) -> None:
    text = print_wide(own_board, 200)
    assert own_board.frame["run"].value_counts().to_dict() == {"some-run": 6, "mine": 1}
    (row,) = own_board.frame[own_board.frame["run"] == "mine"]["row"]
    assert f"from run mine: {row}\n" in text
    assert COMMAND not in text
    assert "`leaderboard --format csv`" in text
