"""Hooks on modules for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

ModuleHook = tuple[nn.Module, Callable[..., Any]]


@contextmanager
def forward_hooks(*, before: Iterable[ModuleHook] = (), after: Iterable[ModuleHook] = ()) -> Iterator[None]:
    """Call `hook(module, inputs)` before, and `hook(module, inputs, output)` after each forward pass of a module.

    The hooks are gone when the block ends, however it ends.
    """
    with ExitStack() as handles:
        for module, hook in before:
            handles.enter_context(module.register_forward_pre_hook(hook))
        for module, hook in after:
            handles.enter_context(module.register_forward_hook(hook))
        yield
