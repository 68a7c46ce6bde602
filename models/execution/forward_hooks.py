"""Hooks on modules for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

ModuleHook = tuple[nn.Module, Callable[..., Any]]


@contextmanager
def forward_hooks(*, before: Iterable[ModuleHook] = (), after: Iterable[ModuleHook] = ()) -> Iterator[None]:
    """Call `hook(module, inputs)` before, and `hook(module, inputs, output)` after each forward pass of a module.

    `inputs` are all arguments of the call, those by keyword (`norm(input=x)`) last. What a hook returns after a pass
    takes the place of the output. The hooks are gone when the block ends, however it ends.
    """
    with ExitStack() as handles:
        for module, hook in before:
            handles.enter_context(module.register_forward_pre_hook(_seeing_inputs(hook), with_kwargs=True))
        for module, hook in after:
            handles.enter_context(module.register_forward_hook(_seeing_output(hook), with_kwargs=True))
        yield


def _seeing_inputs(hook: Callable[..., Any]) -> Callable[..., None]:
    def see(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hook(module, (*inputs, *named.values()))

    return see


def _seeing_output(hook: Callable[..., Any]) -> Callable[..., Any]:
    def see(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        return hook(module, (*inputs, *named.values()), output)

    return see


def hookable_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules by name, but for scripted ones, which take no hooks."""
    return [
        (name, module) for name, module in network.named_modules() if not isinstance(module, torch.jit.ScriptModule)
    ]


@contextmanager
def module_path(network: nn.Module, path: list[str]) -> Iterator[None]:
    """While this lasts, `path` holds the names of the modules that run, the innermost last; after an error, of those
    in which it was raised.
    """

    def enter(name: str, _module: nn.Module, _inputs: Any) -> None:
        path.append(name)

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        path.pop()

    modules = hookable_modules(network)
    before = [(module, partial(enter, name)) for name, module in modules]
    with forward_hooks(before=before, after=[(module, leave) for _, module in modules]):
        yield
