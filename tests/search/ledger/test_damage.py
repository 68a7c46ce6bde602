"""Random bytes anywhere in a ledger's file: only what was hit is lost, the file is kept, and no traceback ever comes.

What must survive is read off the bytes of the sound file: a record whose whole text lies in one piece that was not hit.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from functools import cache
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome

from models.errors import UserError
from search.ledger.ledger import Ledger

OTHER = "fedcba9876543210"
COUNT = 100
DAMAGES = 24


def numbered(number: int) -> tuple[object, object]:
    """Candidates of many sizes: some fit a page many times, some go on in other pages."""
    sites = {
        f"layer{number}.{site}": {"ratio": site / 64} for site in range(random.Random(number).choice([1, 20, 150]))
    }
    return candidate(number, allocation=sites, judge="test" if number % 5 == 0 else "search"), outcome(number)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ledger.db"
    for task, title, share in ((TASK, TITLE, 4), (OTHER, "vgg16 on svhn", 1)):
        with Ledger(str(path), task, title) as ledger:
            for number in range(COUNT * share // 5):
                ledger.add(*numbered(number), {"stage": "search"})  # type: ignore[arg-type]
            for number in range(5):
                ledger.store_fact(f"standing:{number}", {"accuracy": number / 10, "name": "x" * 50})
    return path


@cache
def texts_of(path: Path) -> dict[str, bytes]:
    """Key -> the text of its record as the file holds it, of the first task."""
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT r.value_json FROM trial_user_attributes r JOIN trials t ON t.trial_id = r.trial_id "
        "JOIN study_user_attributes s ON s.study_id = t.study_id WHERE s.value_json LIKE ?", (f"%{TASK}%",),
    ).fetchall()  # fmt: skip
    connection.close()
    return {json.loads(json.loads(text))["key"]: text.encode() for (text,) in rows}


def damaged(sound: Path, folder: Path, seed: int) -> tuple[Path, set[str]]:
    """A copy with random bytes in a random place, and the keys of the records that must survive."""
    rng, content = random.Random(seed), bytearray(sound.read_bytes())
    pages = len(content) // 4096
    size = rng.choice([1, 8, 100, 100, 100, 4096])
    begin = rng.choice([rng.randrange(len(content)), rng.randrange(pages) * 4096, 0 if seed % 10 == 0 else 4096])
    end = min(begin + size, len(content))
    expected = set()
    for key, text in texts_of(sound).items():
        place = content.find(text)
        if place >= 0 and (place >= end or place + len(text) <= begin):
            expected.add(key)
    content[begin:end] = rng.randbytes(end - begin)
    path = folder / f"{seed}.db"
    path.write_bytes(content)
    return path, expected


def read_keys(path: Path, refusal: str) -> tuple[set[str], int]:
    """The keys that a reader sees and how many it misses; none if it is refused, in such words."""
    try:
        with Ledger.open_existing(str(path), TASK) as ledger:
            ledger.facts()
            return {record.key for record in ledger.records()}, ledger.skipped
    except UserError as error:
        message = str(error)
    assert str(path) in message
    assert re.search(refusal, message), message
    return set(), COUNT


def check(sound: Path, folder: Path, seed: int) -> tuple[int, int]:
    """How many records were read by a reader, and after a search has written."""
    path, expected = damaged(sound, folder, seed)
    content, every = path.read_bytes(), set(texts_of(sound))
    keys, skipped = read_keys(path, "no task|which task" if expected else "")
    assert path.read_bytes() == content, "reading changes nothing"
    assert keys <= every
    assert not keys or expected <= keys, f"{seed}: {len(expected - keys)} lost that were not hit"
    assert len(keys) + skipped >= len(every), f"{seed}: {len(every) - len(keys)} are missing and {skipped} were told"
    with Ledger(str(path), TASK, TITLE) as ledger:
        ledger.add(candidate(7777), outcome(7777))
        notices = " ".join(ledger.notices)
        assert ledger.skipped == 0 or notices
    again, _ = read_keys(path, "never")
    assert expected <= again, f"{seed}: {len(expected - again)} lost that were not hit"
    assert len(again - every) == 1
    kept = sorted(folder.glob(f"{path.name}.damaged-*"))
    if kept:
        assert kept[0].read_bytes() == content
        assert kept[0].name in notices
    assert {file.name for file in folder.iterdir()} == {path.name, *(each.name for each in kept)}
    return len(keys), len(again) - 1


@pytest.mark.parametrize("first", range(0, DAMAGES, 6))
def test_only_what_was_hit_is_lost(sound: Path, tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(sound, folder, seed)


def test_where_the_names_of_all_tasks_are_gone_a_search_still_knows_its_own(sound: Path, tmp_path: Path) -> None:
    path, every = tmp_path / "ledger.db", set(texts_of(sound))
    connection = sqlite3.connect(sound)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'study_user_attributes'"
    ).fetchone()  # fmt: skip
    connection.close()
    content = bytearray(sound.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = random.Random(0).randbytes(4096)
    path.write_bytes(content)
    assert read_keys(path, "outcomes in it can be read, but not of which task") == (set(), COUNT)
    with Ledger(str(path), TASK, TITLE) as ledger:
        assert {record.key for record in ledger.records()} == every


def test_what_sqlite_left_beside_a_damaged_file_goes_with_it(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(random.Random(0).randbytes(100) + sound.read_bytes()[100:])
    path.with_name("ledger.db-journal").write_bytes(bytes(1000))
    with Ledger(str(path), TASK, TITLE) as ledger:
        assert len(ledger.records()) == len(texts_of(sound))
        names = sorted(file.name for file in tmp_path.iterdir())
    assert names[0] == "ledger.db"
    assert [name.rpartition("damaged-")[2][15:] for name in names[1:]] == ["", "-journal"]
