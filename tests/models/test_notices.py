"""What is found out while files are read reaches whoever collects it, and nobody else."""

from __future__ import annotations

from models.notices import add_notice, collect_notices


def test_collected_once_each_in_order_by_every_open_collector() -> None:
    add_notice("before")
    with collect_notices() as outer:
        add_notice("one")
        with collect_notices() as inner:
            add_notice("two")
            add_notice("one")
            add_notice("two")
        add_notice("three")
    add_notice("after")
    assert outer == ["one", "two", "three"]
    assert inner == ["two", "one"]


def test_a_collector_closes_when_its_code_raises() -> None:
    try:
        with collect_notices() as notices:
            raise KeyError
    except KeyError:
        pass
    add_notice("after")
    assert notices == []
