"""Methods and strategies that lie in a user's own files: what a configuration calls them, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import model_validator

from models.errors import UserError, unknown_name
from models.settings import Settings, setting_name


class UsersCode(Settings):
    """The part of a configuration that says where its methods and strategies are."""

    code: dict[str, str] = {}
    """`MyMethod@1f3a5c7e9b2d` -> `/home/me/method.py:MyMethod@1f3a5c7e9b2d`."""

    @model_validator(mode="after")
    def _locate_code(self) -> Self:
        """Wherever a configuration is read, its names can be looked up; nothing is executed for that."""
        from methods.registry import locate_methods  # imports torch: the command line shows its help without
        from search.strategies.registry import locate_strategies

        locate_methods(self.code)
        locate_strategies(self.code)
        return self


class Identified(NamedTuple):
    """What a configuration calls methods and strategies, and its `code`."""

    methods: tuple[str, ...]
    strategies: tuple[str, ...]
    code: dict[str, str]


def identify_names(methods: Sequence[str], strategies: Sequence[str]) -> Identified:
    """Names as they are typed; UserError for an unknown one."""
    from methods.registry import identify_method
    from search.strategies.registry import identify_strategy

    known_methods = [identify_method(name) for name in methods]
    known_strategies = [identify_strategy(name) for name in strategies]
    code: dict[str, str] = {}
    for _, files in (*known_methods, *known_strategies):
        code |= files
    return Identified(
        tuple(identity for identity, _ in known_methods), tuple(identity for identity, _ in known_strategies), code
    )


def split_options(texts: Sequence[str], methods: Sequence[str]) -> dict[str, list[str]]:
    """Each method's `METHOD.NAME=VALUE` pairs, as they were typed; a method of a file goes by its class's name."""
    from methods.registry import method_label

    # `MyMethod`, without the digest that nobody types.
    by_label = {method_label(method): method for method in methods}
    options: dict[str, list[str]] = {method: [] for method in methods}
    name = setting_name("options", "--option")
    for text in texts:
        label, dot, _ = text.partition(".")
        if not dot or "=" in label:
            raise UserError(f"{name} {text!r} is not METHOD.NAME=VALUE")
        if label not in by_label:
            raise unknown_name(f"method in {name}", label, by_label)
        options[by_label[label]].append(text)
    return options
