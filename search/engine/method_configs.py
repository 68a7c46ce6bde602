"""A run's configuration method by method: each with its own options, and with the strategies that answer for it.

Which strategies these are may depend on whether a method learns its allocation, and to know that of a user's method its
file is executed. So this is no part of `RunConfig`: whoever only reads a run executes nothing.
"""

from __future__ import annotations

from methods.registry import method_info
from search.settings.config import LEARNED, RunConfig


def method_configs(config: RunConfig) -> list[RunConfig]:
    """The part of the run that is each method's."""
    return [
        config.model_copy(
            update={
                "methods": (method,),
                "options": {method: config.options[method]} if method in config.options else {},
                "strategies": strategies_of(config, method),
            }
        )
        for method in config.methods
    ]


def strategies_of(config: RunConfig, method: str) -> tuple[str, ...]:
    """The strategies of one method of a run.

    In a comparison, a method that learns its allocation does so, unless `learned` is among those asked for: then it
    gets all of them, and the other methods all but that one.
    """
    if not config.comparison:
        return config.strategies
    # While it learns, a method can heed neither constraints nor targets of other measures.
    can_learn = not config.constraints.constrains_sites and config.targets[0].measures == ("flops",)
    if (LEARNED in config.strategies or can_learn) and method_info(method).learns_allocation:
        return config.strategies if LEARNED in config.strategies else (LEARNED,)
    return tuple(name for name in config.strategies if name != LEARNED)
