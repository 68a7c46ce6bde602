"""Random numbers that do not depend on shapes, so that a narrowed and a masked network can be compared in training.

With the same seed, dropout still draws other masks for fewer channels. Here every operator's draws are one number for
the whole tensor; operators that are not known here draw as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from methods.graph.flow.call import named_arguments
from models.execution.operator_mode import OperatorMode

# Draws from the upper half keep what layer drop and drop path would leave out. Code that draws until something small
# comes must end, so that later draws are from the whole interval.
UPPER_DRAWS = 1000
GOLDEN = 0.618034  # multiples of it, without their integers, fill the interval evenly


class SteadyDraws(OperatorMode):
    """While this mode is on, random operators fill their results with one number, the next in a fixed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self._draws = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.run_parts(func, args, kwargs)
        if result is not NotImplemented:
            return result
        name = func.overloadpacket.__name__.rstrip("_")
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        draw = _DRAWS.get(name)
        if draw is None:
            return func(*args, **kwargs)
        arguments = named_arguments(func._schema, args, kwargs)
        # Read before the operator runs: `probabilities.bernoulli_()` writes over them.
        before = args[0].clone() if args and isinstance(args[0], Tensor) else None
        result = func(*args, **kwargs)
        result.copy_(draw(result, arguments | {"self": before}, self._next_draw()))
        return result

    def _next_draw(self) -> float:
        self._draws += 1
        draw = self._draws * GOLDEN % 1
        return 0.5 + draw / 2 if self._draws <= UPPER_DRAWS else draw


def drawn_from_shapes(name: str) -> bool:
    """Whether a random operator takes nothing from tensors but their shapes, or the chances of ones."""
    return name.rstrip("_") in _DRAWS and (name.endswith(("_", "_like")) or name == "bernoulli")


def _draw_uniform(result: Tensor, arguments: Mapping[str, Any], draw: float) -> Tensor:
    low, high = arguments.get("from", 0.0), arguments.get("to", 1.0)
    return torch.full_like(result, low + draw * (high - low))


def _draw_normal(result: Tensor, arguments: Mapping[str, Any], draw: float) -> Tensor:
    """Means and deviations may be tensors, one for every element (of a variational network)."""
    return torch.zeros_like(result) + arguments.get("mean", 0.0) + arguments.get("std", 1.0) * draw


def _draw_log_normal(result: Tensor, arguments: Mapping[str, Any], draw: float) -> Tensor:
    return _draw_normal(result, {"mean": 1.0, "std": 2.0, **arguments}, draw).exp()


def _draw_counts(result: Tensor, arguments: Mapping[str, Any], draw: float) -> Tensor:
    """Of events, by their rates."""
    return torch.floor(arguments["self"] + draw)


def _draw_bernoulli(result: Tensor, arguments: Mapping[str, Any], draw: float) -> Tensor:
    likely = arguments.get("p", arguments["self"])
    return torch.zeros_like(result) + torch.as_tensor(likely > 1 - draw, device=result.device)


def _draw_integers(result: Tensor, arguments: Mapping[str, Any], draw: float) -> Tensor:
    low = arguments.get("low", arguments.get("from")) or 0
    high = arguments.get("high", arguments.get("to"))
    return torch.full_like(result, low + int(draw * ((2 if high is None else high) - low)))


def _draw_order(result: Tensor, _arguments: Mapping[str, Any], _draw: float) -> Tensor:
    """Backwards: the order as it is would hide that channels are exchanged."""
    return torch.arange(len(result) - 1, -1, -1).to(result)


_DRAWS: dict[str, Callable[[Tensor, Mapping[str, Any], float], Tensor]] = {
    "rand": _draw_uniform, "rand_like": _draw_uniform, "uniform": _draw_uniform, "exponential": _draw_uniform,
    "randn": _draw_normal, "randn_like": _draw_normal, "normal": _draw_normal,
    "log_normal": _draw_log_normal, "poisson": _draw_counts,
    "bernoulli": _draw_bernoulli,
    "randint": _draw_integers, "randint_like": _draw_integers, "random": _draw_integers,
    "randperm": _draw_order,
}  # fmt: skip
