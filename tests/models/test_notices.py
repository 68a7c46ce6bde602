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


def test_a_notice_is_one_line_that_no_terminal_obeys() -> None:
    with collect_notices() as notices:
        add_notice("names a\nb, \x1b[31mred\x1b[0m are classes 0 to 1")
    assert notices == ["names a b, red are classes 0 to 1"]
