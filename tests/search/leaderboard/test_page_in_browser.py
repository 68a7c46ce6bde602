"""The leaderboard's page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_fakes import filled, printed
from chromium import Browser

from search.leaderboard.board import Board


@pytest.fixture
def page(path: str, tmp_path: Path) -> Path:
    filled(path).close()
    out = tmp_path / "board.html"
    printed(path, tmp_path, "html", out=out, reported=True)
    return out


COLUMN = """[...document.querySelectorAll("#board-0 th")].find(head => head.textContent.startsWith("Δ"))"""
ROWS = """[...document.querySelectorAll("#board-0 tbody tr")].map(row => row.cells[1].textContent)"""


@pytest.mark.browser
def test_a_click_on_a_column_head_sorts(page: Path, board: Board, tmp_path: Path) -> None:
    known = board.frame[board.frame["delta"].notna()]
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.run(ROWS) == list(board.frame["row"])
        for ascending in (True, False):
            browser.click(f"{COLUMN}.querySelector('button')")
            expected = list(known.sort_values("delta", ascending=ascending)["row"])
            assert browser.run(ROWS)[: len(expected)] == expected
            assert browser.run(f"{COLUMN}.ariaSort") == ("ascending" if ascending else "descending")
        assert browser.log == []


@pytest.mark.browser
def test_the_fronts_are_drawn_with_error_bars(page: Path, board: Board, tmp_path: Path) -> None:
    judged = int(board.frame["score"].notna().sum())
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        count = "document.querySelectorAll('#fronts-plot-0 {}').length"
        assert browser.run(count.format(".point")) == judged + 1  # the dense network is one
        assert browser.run(count.format(".errorbar .yerror")) == judged
        assert browser.run("performance.getEntriesByType('resource').length") == 0


@pytest.mark.browser
def test_the_page_fits_a_phone_and_paper(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", width=500) as browser:  # the least that Chromium opens
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0
        box = "document.querySelector('#fronts-plot-0 {}').getBoundingClientRect().{}"
        assert browser.run(box.format(".legend", "top")) >= browser.run(box.format(".xtitle", "bottom"))
        assert browser.pdf().startswith(b"%PDF")
