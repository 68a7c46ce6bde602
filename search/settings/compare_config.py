"""The configuration of a comparison: one search for every method, from its options or from a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from methods.registry import method_info
from models.errors import UserError, unknown_name
from models.task import TaskConfig
from search.allocation.constraints import Constraints
from search.allocation.targets import parse_targets
from search.candidate import Frozen
from search.engine.runs import is_comparison, read_searches, run_folder
from search.settings import build
from search.settings.config import SearchConfig
from search.settings.shell import option_text
from search.strategies.contract import strategy

LEARNED = "learned"


class CompareConfig(Frozen):
    """One search for every method; they differ in method, options and strategies alone."""

    searches: tuple[SearchConfig, ...] = Field(min_length=1)

    @property
    def common(self) -> SearchConfig:
        """Any of them: for what they share."""
        return self.searches[0]

    @property
    def folder(self) -> Path:
        return self.common.folder


def compare_config(
    *,
    task: TaskConfig,
    methods: str,
    strategies: str,
    options: Sequence[str],
    seeds: int,
    name: str | None,
    **fields: Any,
) -> CompareConfig:
    """A comparison from its options; unknown methods, strategies and malformed targets are refused here.

    Args:
        options: `METHOD.NAME=VALUE`.
        seeds: of every finalist.
    """
    names, asked = _names(methods, "method"), _names(strategies, "strategy")
    for each in asked:
        strategy(each)
    own = _own_options(options, names)
    restricted = Constraints(**(fields.get("constraints") or {})).given
    free = not restricted and parse_targets(fields["targets"])[0].measures == ("flops",)
    run = build.run_name(name, task, "compare", Path(fields.get("results", "results")))
    searches = [
        build.search_config(
            task=task,
            method=method,
            options=own[method],
            strategies=",".join(strategies_for(method, asked, free=free)),
            name=run,
            warm_start=False,  # every strategy stands on its own
            final_seeds=seeds,
            finalists=1,
            **fields,
        )
        for method in names
    ]
    return CompareConfig(searches=tuple(searches))


def strategies_for(method: str, asked: Sequence[str], *, free: bool = True) -> tuple[str, ...]:
    """The strategies of one method: one that learns its allocation does so, unless `learned` is among those asked for.

    Then it gets all of them, and the other methods all but that one.

    Args:
        free: nothing is asked that a method cannot heed while it learns.
    """
    if method_info(method).learns_allocation and (free or LEARNED in asked):
        return tuple(asked) if LEARNED in asked else (LEARNED,)
    return tuple(name for name in asked if name != LEARNED)


def _names(text: str, kind: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UserError(f"no {kind} in {text!r}; name at least one")
    return names


def _own_options(pairs: Sequence[str], methods: Sequence[str]) -> dict[str, list[str]]:
    own: dict[str, list[str]] = {method: [] for method in methods}
    for pair in pairs:
        method, dot, rest = pair.partition(".")
        if not dot or "=" in method:
            raise UserError(f"--option {pair!r} is not METHOD.NAME=VALUE")
        if method not in own:
            raise unknown_name("method in --option", method, methods)
        own[method].append(rest)
    return own


def resumed(run: str | Path) -> CompareConfig:
    """The configuration of a comparison, from its run's folder."""
    folder = run_folder(run)
    if not is_comparison(folder):
        raise UserError(
            f"{folder} holds a search and no comparison; go on with it by `search {option_text('--resume', folder)}`"
        )
    return CompareConfig(searches=read_searches(folder))
