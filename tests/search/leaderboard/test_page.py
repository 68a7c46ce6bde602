"""The leaderboard's page and its picture."""

from __future__ import annotations

import re
from pathlib import Path

from board_fakes import TASK, add_row, filled, printed

from search.engine.standings import Standing, store_standings
from search.leaderboard.board import Board, read_boards
from search.leaderboard.page import front_figure, page_html
from search.report.figures import group_styles
from search.results.tables import table_records


def test_the_page_tells_everything_and_refers_to_nothing(path: str, tmp_path: Path, board: Board) -> None:
    out = tmp_path / "board.html"
    printed(path, tmp_path, "html", out=out, reported=True)
    page = out.read_text()
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for line in table_records(board.frame):
        assert line["row"] in body
    assert "DepGraph" in body
    assert not re.search(r'(src|href)="(?!#)', body)


def test_names_on_the_page_cannot_act(path: str, tmp_path: Path) -> None:
    evil = "<script>document.title='owned'</script>"
    with filled(path, title=evil) as ledger:
        add_row(ledger, evil, "0.5", (0.9, 0.91), strategy=evil, run=evil)
        store_standings(ledger, [Standing(method=evil, strategy=evil, target="0.1", target_flops=1, reason=evil)])
    assert evil not in page_html(read_boards(path, [TASK], tmp_path), created="now")


def test_the_picture_holds_every_tested_row_with_its_spread(board: Board) -> None:
    figure = front_figure(board, group_styles(board.frame))
    assert figure is not None
    drawn = {(row[0], round(x, 9), round(y, 9), round(bar, 9)) for trace in figure["data"] if "error_y" in trace
             for row, x, y, bar in zip(trace["customdata"], trace["x"], trace["y"], trace["error_y"]["array"],
                                       strict=True)}  # fmt: skip
    known = board.frame[board.frame["score"].notna()].fillna({"std": 0.0})
    assert drawn == {(line["row"], round(100 * line["kept_flops"], 9), round(100 * line["score"], 9),
                      round(100 * line["std"], 9)) for line in table_records(known)}  # fmt: skip
