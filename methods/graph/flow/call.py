"""One call of an operator while labels flow, and the rule for operators that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from methods.graph.flow.index_tensors import Pick
from methods.graph.flow.labels import Labels
from methods.graph.flow.planes import Value
from methods.graph.narrow import Side
from models.execution.tensor_leaves import tensor_leaves

Planes = tuple[Tensor, ...]


@dataclass
class Call:
    """One call of an operator: its arguments, and what is known of their tensors.

    Attributes:
        arguments: by the names of the operator's schema.
        value_of: what is known of a tensor among the arguments.
        outputs: the tensors that it returned.
        reason: what to say of channels that have to stay because of it.
        in_norm: whether a module that normalises channels makes the call.
    """

    labels: Labels
    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    value_of: Callable[[Tensor], Value]
    outputs: list[Tensor]
    reason: str
    grouped_labels: Callable[[Tensor, Side, int], Tensor | None]
    splits: list[Tensor]
    picks: list[Pick]
    in_norm: bool = False

    def values(self) -> list[Value]:
        return [self.value_of(tensor) for tensor in tensor_leaves((self.args, self.kwargs))]

    def fix(self, planes: Sequence[Tensor], dims: Sequence[int]) -> list[Tensor]:
        fixed = [self.labels.fix(plane, dims, self.reason) for plane in planes]
        return [plane for plane in fixed if plane is not None]


def pin_inputs(call: Call) -> Planes:
    for value in call.values():
        for plane in value.planes:
            call.labels.pin(plane, call.reason)
    return ()


def named_arguments(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the operator's schema, defaults included."""
    named = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)}
    for argument in schema.arguments[len(args) :]:
        if argument.name in kwargs or argument.has_default_value():
            named[argument.name] = kwargs.get(argument.name, argument.default_value)
    return named
