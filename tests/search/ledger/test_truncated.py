"""A ledger cut off anywhere, down to nothing: what is said of it counts what is in the file.

What can be read is counted another way: a record whose whole text lies in the part that is left.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome

from models.errors import UserError
from search import api
from search.ledger.ledger import Ledger, list_tasks
from search.ledger.storage import check_location

COUNT = 60


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ledger.db"
    with Ledger(str(path), TASK, TITLE) as ledger:
        for number in range(COUNT):
            ledger.add(candidate(number), outcome(number))
    return path


@pytest.fixture(scope="module")
def texts(sound: Path) -> list[bytes]:
    connection = sqlite3.connect(sound)
    rows = connection.execute("SELECT value_json FROM trial_user_attributes").fetchall()
    connection.close()
    return [text.encode() for (text,) in rows]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.97])
def test_what_is_said_to_be_readable_is(sound: Path, texts: list[bytes], tmp_path: Path, share: float) -> None:
    path, content = tmp_path / "ledger.db", sound.read_bytes()
    content = content[: int(share * len(content))]
    path.write_bytes(content)
    whole = sum(text in content for text in texts)
    try:
        with Ledger.open_existing(str(path), TASK) as ledger:
            assert len(ledger.records()) == whole
        return
    except UserError as error:
        message = str(error)
    said = re.search(r"(\d+) outcomes in it can be read", message)
    assert (int(said[1]) if said else 0) == whole, message
    if whole:
        check_location(str(path))
        with Ledger(str(path), TASK, TITLE) as ledger:  # as the sentence says
            assert len(ledger.records()) == whole
        return
    assert re.search(r"none of the \d+ outcomes or more in it can be read|no outcome is left in it", message), message
    assert "restore it from a copy, or move it away" in message
    for attempt in (lambda: check_location(str(path)), lambda: Ledger(str(path), TASK, TITLE)):
        with pytest.raises(UserError, match=re.escape(message)):
            attempt()
    assert path.read_bytes() == content


def test_some_cut_leaves_trials_and_no_readable_record(sound: Path, texts: list[bytes], tmp_path: Path) -> None:
    """The case that was told as "52 outcomes are left": rows of trials are there, what they hold is not."""
    path, content = tmp_path / "ledger.db", bytearray(sound.read_bytes())
    for text in texts:
        begin = content.index(text)
        content[begin + 20 : begin + 60] = bytes(40)
    content[16:18] = b"\xff\xff"  # so that SQLite cannot read it either
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"none of the {COUNT} outcomes or more in it can be read; restore"):
        list_tasks(str(path))


@pytest.mark.parametrize("kind", ["no bytes", "no tables"])
def test_an_empty_file_is_a_new_ledger_that_holds_nothing_to_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    if kind == "no tables":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE brief (x)")
        connection.execute("DROP TABLE brief")
        connection.close()
        assert path.stat().st_size
    for attempt in (
        lambda: list_tasks(str(path)),
        lambda: api.leaderboard(ledger=str(path), results=tmp_path),
        lambda: Ledger.open_existing(str(path), TASK),
    ):
        with pytest.raises(UserError, match=r"ledger.db is empty: no search has begun with it; run one first"):
            attempt()
    check_location(str(path))
    with Ledger(str(path), TASK, TITLE) as ledger:
        ledger.add(candidate(), outcome())
    assert list_tasks(str(path)) == {TASK: TITLE}
