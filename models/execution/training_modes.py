"""Networks whose own `train` or `eval` is something else than torch's: a training loop, a method that returns None."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.execution.module_copies import copy_module


def mend_modes(network: nn.Module) -> list[str]:
    """Let every module switch between training and evaluation as torch's own do; the classes that had to be mended.

    A module's own method is kept where it works, since it may leave layers frozen on purpose; only what it returns is
    put right. The class of a module is replaced, not the method on the object: that would be bound to one copy.
    """
    mended: dict[str, None] = {}
    for module in reversed(list(network.modules())):  # a parent switches its children
        kind = type(module)
        if kind.train is nn.Module.train and kind.eval is nn.Module.eval:
            continue
        fault = _mode_fault(module)
        if fault is not None:
            module.__class__ = _with_modes(kind, keep_own=fault == "returns")
            if fault != "returns":
                mended[kind.__name__] = None
    return list(mended)


def _mode_fault(module: nn.Module) -> str | None:
    """`switches` if train() or eval() does not switch the mode, `returns` if it does but returns something else."""
    fault = None
    for training in (True, False):
        twin = copy_module(module)
        try:
            result: Any = twin.train() if training else twin.eval()
        except Exception:  # a method of that name with other arguments, or one that fails without data
            return "switches"
        if twin.training is not training:
            return "switches"
        if result is not twin:
            fault = "returns"
    return fault


def _with_modes(kind: type[nn.Module], *, keep_own: bool) -> type[nn.Module]:
    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        (kind if keep_own else nn.Module).train(self, mode)
        return self

    def evaluate(self: nn.Module) -> nn.Module:
        (kind if keep_own else nn.Module).eval(self)
        return self

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "train": train, "eval": evaluate})
