"""Code that is imported when it is first called, so that what is said of it can be listed without it."""

from __future__ import annotations

import importlib
from typing import Any


class DeferredCode:
    """A function or class of ours by its place, `package.module:name`, as entry points name theirs."""

    def __init__(self, place: str) -> None:
        self.place = place

    def load(self) -> Any:
        """The function or class itself."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.load()(*args, **options)

    def __repr__(self) -> str:
        return f"DeferredCode({self.place!r})"
