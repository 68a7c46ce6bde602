"""The registry of strategies: names taken once, and the closest ones to a name that is unknown."""

from __future__ import annotations

import pytest

from models.errors import UserError
from search.strategies.contract import StrategyInfo
from search.strategies.registry import find_strategy, register, strategy_infos


def test_every_strategy_says_what_it_is() -> None:
    infos = strategy_infos()
    assert {"acra-uniform", "acra-sensitivity"} <= infos.keys()
    assert list(infos) == sorted(infos)
    for name, info in infos.items():
        assert info.name == name
        assert info.summary
        assert info.source
        assert find_strategy(name)[0] is info


def test_acra_uniform_needs_no_data() -> None:
    assert not strategy_infos()["acra-uniform"].needs_data
    assert strategy_infos()["acra-sensitivity"].needs_data


def test_a_name_can_be_taken_only_once() -> None:
    before = find_strategy("acra-uniform")
    with pytest.raises(ValueError, match="acra-uniform"):
        register(StrategyInfo("acra-uniform", "again", "nowhere"))(lambda problem: iter(()))  # type: ignore[arg-type, return-value]
    assert find_strategy("acra-uniform") is before


def test_an_unknown_name_is_told_the_closest() -> None:
    with pytest.raises(UserError, match="acra-uniform"):
        find_strategy("acra-unifrom")
    with pytest.raises(UserError, match="known: "):
        find_strategy("zzzzzz")
