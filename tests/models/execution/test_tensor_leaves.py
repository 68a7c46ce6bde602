"""Tensors in whatever networks return."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from models.execution.tensor_leaves import tensor_leaves

A, B, C = torch.zeros(1), torch.ones(2), torch.arange(3)
Boxes = namedtuple("Boxes", "corners scores")


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


class ModelOutput(OrderedDict[str, Tensor]):
    """A mapping of a class of its own, as Hugging Face's models return."""


def test_tensors_are_found_in_order_in_whatever_holds_them() -> None:
    holders = [
        A,
        [A],
        {"boxes": A},
        Boxes(A, "name"),
        Output(A),
        ModelOutput(logits=A),
        SimpleNamespace(inner=Output(A)),
        [{"a": Output(A)}, 3],
    ]
    for value in holders:
        assert [id(tensor) for tensor in tensor_leaves(value)] == [id(A)]
    assert [id(t) for t in tensor_leaves([Output(B, (C,)), None, {"x": A}])] == [id(B), id(C), id(A)]
    assert tensor_leaves(["text", 3, None, torch.nn.functional.relu, Tensor]) == []


def test_objects_that_point_at_each_other_end() -> None:
    first, second = SimpleNamespace(scores=A), SimpleNamespace(boxes=B)
    first.other, second.other = second, first
    assert [id(tensor) for tensor in tensor_leaves(first)] == [id(A), id(B)]
