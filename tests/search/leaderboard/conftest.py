"""A ledger with a leaderboard in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_fakes import TASK, filled

from search.leaderboard.board import Board, read_boards


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@pytest.fixture
def board(path: str, tmp_path: Path) -> Board:
    filled(path).close()
    return read_boards(path, [TASK], tmp_path)[0]
