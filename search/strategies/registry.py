"""Strategies by name: those of this package, those of installed packages, and those in a user's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from models.errors import UserError
from models.registry import Registry
from models.user.code import is_user_spec
from models.user.pinned_code import code_identity
from search.strategies.contract import Program, Propose, StrategyInfo

if TYPE_CHECKING:
    from search.strategies.problem import Problem

StrategyRecord = tuple[StrategyInfo, Propose]


def _read_record(name: str, loaded: Any) -> StrategyRecord:
    """The record of a generator function in a user's file or an installed package."""
    if not callable(loaded) or isinstance(loaded, type):
        raise UserError(f"strategy {name} is no strategy: it must be a generator function that takes a Problem")
    info = getattr(loaded, "info", None)
    if not isinstance(info, StrategyInfo):  # not decorated
        summary = (inspect.getdoc(loaded) or "").partition("\n")[0]
        info = StrategyInfo(name, summary, "a user's own", needs_data=None)
    return replace(info, name=name), partial(_propose_as, name, loaded)


def _propose_as(name: str, propose: Propose, problem: Problem) -> Program:
    """The strategy's proposals under the name that the run knows it by, whatever it calls itself."""
    program = propose(problem)
    try:
        proposals = next(program)
        while True:
            outcomes = yield [replace(proposal, strategy=name) for proposal in proposals]
            proposals = program.send(outcomes)
    except StopIteration:
        return


_STRATEGIES: Registry[StrategyRecord] = Registry(
    "strategy", package="search.strategies", group="ratio_search.strategies", read_record=_read_record
)


def register(info: StrategyInfo) -> Callable[[Propose], Propose]:
    """Make a strategy known under its name, which can be taken only once."""

    def add_strategy(propose: Propose) -> Propose:
        _STRATEGIES.add(info.name, (info, propose))
        propose.info = info  # type: ignore[attr-defined]
        return propose

    return add_strategy


def strategy_infos() -> dict[str, StrategyInfo]:
    """Every strategy that goes by a name."""
    return {name: info for name, (info, _) in _STRATEGIES.records().items()}


def find_strategy(name: str) -> StrategyRecord:
    """One strategy; UserError with the closest names if there is none."""
    return _STRATEGIES.get(name)


def identify_strategy(name: str) -> tuple[str, dict[str, str]]:
    """What configurations and outcomes call a strategy, and where it is if it lies in a user's file."""
    pinned = _STRATEGIES.pin(name)
    identity = code_identity(pinned)
    find_strategy(identity)
    return identity, {identity: pinned} if is_user_spec(pinned) else {}


def locate_strategies(files: Mapping[str, str]) -> None:
    """Remember where a user's strategies are: identity -> pinned name, as from `identify_strategy`."""
    for pinned in files.values():
        _STRATEGIES.locate(pinned)
