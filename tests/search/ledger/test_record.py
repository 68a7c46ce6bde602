"""The text of a record: what is no record of ours is a ValueError, whatever it is."""

from __future__ import annotations

import json

import pytest
from ledger_samples import TASK, candidate, outcome

from search.ledger.record import Record

RECORD = Record(candidate().key(TASK), candidate(), outcome(), {"stage": "search"})
DEEP = "[" * 100_000 + "]" * 100_000
NESTED = json.dumps({**json.loads(RECORD.to_json()), "meta": {"a": 0}}).replace('"a": 0', f'"a": {DEEP}')


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "1", '"a"', DEEP, NESTED, RECORD.to_json()[:-1], RECORD.to_json().replace("stage", "é"), 7]
)
def test_any_other_text_is_a_value_error(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, of json, pydantic and ours
        Record.from_json(text)


def test_its_own_text_is_read_back() -> None:
    assert Record.from_json(RECORD.to_json()) == RECORD
