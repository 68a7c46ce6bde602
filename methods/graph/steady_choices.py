"""Choices that rounding decides, made alike by a narrowed and a masked network so that the rest can be compared.

Boxes of equal scores are kept in an order that the last bit decides, and what is suppressed follows from the order:
after a choice (`topk`, `sort`, `nms`, `>`) outputs may differ widely though all scores agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from methods.graph.comparison import are_close, have_same_shapes
from models.execution.operator_mode import OperatorMode
from models.execution.tensor_leaves import tensor_leaves

_STEPS = frozenset(("floor", "ceil", "round", "trunc", "sign", "floor_divide", "heaviside"))
_Choice = tuple[Any, list[Tensor], Any]  # operator, operands, result


class SteadyChoices(OperatorMode):
    """Notes the choices of one pass, and gives them to the next where that chooses among the same numbers.

    A choice is an operator that makes integers or booleans of floating-point numbers, or rounds them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._choices: list[_Choice] = []
        self._next: int | None = None
        """Of the choices, the one that comes now; None while they are noted."""
        self._forced = False

    def repeat(self) -> SteadyChoices:
        """The next pass gets what was noted, in the same order."""
        self._next, self._forced = 0, False
        return self

    def repeat_regions(self) -> AbstractContextManager[object]:
        """The next pass of a detector looks at as many regions as the noted one, whatever their scores are.

        How many are left after suppression is no matter of widths; trained detectors mostly reach their limit. Other
        networks choose for themselves.
        """
        if not any(func.overloadpacket.__name__ == "nms" for func, *_ in self._choices):
            return nullcontext()
        self._next, self._forced = 0, True
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.run_parts(func, args, kwargs)
        if result is not NotImplemented:
            return result
        operands = [tensor for tensor in tensor_leaves((args, kwargs)) if tensor.is_floating_point()]
        if not operands or func._schema.is_mutable:
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if not _is_choice(func, result):
            return result
        if self._next is None:  # copies, for code may write into them later
            self._choices.append((func, [operand.detach().clone() for operand in operands], _copy_leaves(result)))
            return result
        return self._repeat_choice(func, operands, result)

    def _repeat_choice(self, func: Any, operands: list[Tensor], result: Any) -> Any:
        assert self._next is not None
        if self._next >= len(self._choices):
            return result
        noted_func, noted, noted_result = self._choices[self._next]
        self._next += 1
        same_shapes = [operand.shape for operand in operands] == [operand.shape for operand in noted]
        if func is not noted_func or not same_shapes or not (self._forced or are_close(operands, noted)):
            return result
        return _copy_leaves(noted_result)


def _is_choice(func: Any, result: Any) -> bool:
    whole = any(not tensor.is_floating_point() and not tensor.is_complex() for tensor in tensor_leaves(result))
    return whole or func.overloadpacket.__name__ in _STEPS


def _copy_leaves(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)


def agree_with_choices(
    run: Callable[[], Sequence[Tensor]], run_masked: Callable[[], Sequence[Tensor]], tolerance: float | None = None
) -> bool:
    """Whether the outputs of two passes that differ agree once the second chooses as the first did."""
    choices = SteadyChoices()
    with choices:
        outputs = run()
    with choices.repeat():
        wanted = run_masked()
    return have_same_shapes(outputs, wanted) and are_close(outputs, wanted, tolerance)
