"""The table of rules: its names are PyTorch's, and every operator of a kind is found in whatever form it comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchvision.ops import roi_align

from methods.graph.flow import operators
from methods.graph.flow.arithmetic import (
    attend,
    convolve,
    keep_elements,
    multiply_matrices,
    normalise_channels,
    pool_positions,
    sample_positions,
)
from methods.graph.flow.call import pin_inputs
from methods.graph.flow.movement import (
    concatenate_elements,
    embed_rows,
    move_elements,
    pad_elements,
    reshape_elements,
    slice_elements,
    write_elements,
)
from methods.graph.flow.operators import made_from_shapes, operator_words, rule_of
from methods.graph.flow.reductions import reduce_dims, scale_channels, work_along_dim
from models.execution.operator_mode import OperatorMode

X, Y = torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8)
W = torch.rand(4, 4, 1, 1)

CALLS: list[tuple[operators.Rule, Callable[[], object]]] = [
    (keep_elements, lambda: X + Y),
    (keep_elements, lambda: torch.maximum(X, Y)),
    (keep_elements, lambda: torch.max(X, Y)),
    (keep_elements, lambda: X.clone().relu_()),
    (keep_elements, lambda: F.hardswish(X)),
    (keep_elements, lambda: F.prelu(X, torch.rand(4))),
    (keep_elements, lambda: torch.where(X > 0, X, Y)),
    (keep_elements, lambda: X.bfloat16().float() ** 2),
    (reduce_dims, lambda: X.max(1)),
    (reduce_dims, lambda: torch.logsumexp(X, 1)),
    (reduce_dims, lambda: torch.linalg.vector_norm(X, dim=1)),
    (scale_channels, lambda: F.log_softmax(X, 1)),
    (work_along_dim, lambda: X.topk(2, 1)),
    (move_elements, lambda: X.permute(0, 2, 3, 1)),
    (move_elements, lambda: X[:, [1, 0]]),
    (move_elements, lambda: F.pixel_shuffle(X, 2)),
    (reshape_elements, lambda: X.view(1, 2, 2, 8, 8)),
    (reshape_elements, lambda: X.flatten(1)),
    (slice_elements, lambda: X[:, 1:3]),
    (slice_elements, lambda: X.chunk(2, 1)),
    (slice_elements, lambda: X.split([1, 3], 1)),
    (slice_elements, lambda: X.unbind(1)),
    (concatenate_elements, lambda: torch.cat([X, Y], 1)),
    (concatenate_elements, lambda: torch.stack([X, Y])),
    (pad_elements, lambda: F.pad(X, (0, 0, 0, 0, 1, 1))),
    (write_elements, lambda: X.clone().copy_(Y)),
    (embed_rows, lambda: F.embedding(torch.tensor([1]), torch.rand(3, 4))),
    (convolve, lambda: F.conv2d(X, W)),
    (convolve, lambda: F.conv_transpose2d(X, W)),
    (multiply_matrices, lambda: F.linear(X, torch.rand(3, 8), torch.rand(3))),
    (multiply_matrices, lambda: X @ Y),
    (attend, lambda: F.scaled_dot_product_attention(X, Y, Y)),
    (normalise_channels, lambda: F.batch_norm(X, torch.rand(4), torch.rand(4))),
    (normalise_channels, lambda: F.instance_norm(X)),
    (normalise_channels, lambda: F.layer_norm(X, (8,))),
    (normalise_channels, lambda: F.group_norm(X, 2)),
    (pool_positions, lambda: F.max_pool2d(X, 2)),
    (pool_positions, lambda: F.adaptive_max_pool1d(X[0], 2)),
    (pool_positions, lambda: F.interpolate(X, scale_factor=2)),
    (sample_positions, lambda: roi_align(X, torch.zeros(1, 5), 2)),
    (sample_positions, lambda: F.grid_sample(X, torch.zeros(1, 2, 2, 2), align_corners=False)),
    (pin_inputs, lambda: torch.fft.fft(X, dim=1)),
    (pin_inputs, lambda: torch.linalg.inv(X)),
]  # fmt: skip


class _Rules(OperatorMode):
    """The rules of all operators that run, but for those that take no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[operators.Rule] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        named = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)}
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
            self.seen.append(rule_of(func, func.overloadpacket.__name__, named))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("rule", "call"), [pytest.param(*pair, id=f"{i}-{pair[0].__name__}") for i, pair in enumerate(CALLS)]
)
def test_every_form_of_an_operator_has_its_rule(rule: operators.Rule, call: Callable[[], object]) -> None:
    with _Rules() as rules, torch.no_grad():
        call()
    assert rule in rules.seen
    assert rule is pin_inputs or pin_inputs not in rules.seen


def test_every_name_in_the_table_is_an_operator_and_stands_there_once() -> None:
    names = [name for names in operators.NAMES.values() for name in names.split()]
    spaces = (torch.ops.aten, torch.ops.torchvision)
    assert [name for name in names if not any(hasattr(space, name) for space in spaces)] == []
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize(
    "make", [torch.zeros_like, torch.rand_like, lambda x: x.new_ones(3), lambda x: torch.arange(4.0)]
)
def test_tensors_made_from_shapes_are_no_data(make: Callable[[Tensor], Tensor]) -> None:
    class Names(OperatorMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            tensors = sum(isinstance(argument, Tensor) for argument in args)
            seen.append(made_from_shapes(func.overloadpacket.__name__, tensors))
            return func(*args, **(kwargs or {}))

    seen: list[bool] = []
    with Names():
        make(X)
    assert seen
    assert all(seen)


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("_softmax", scale_channels, "softmax over channels"),
        ("native_layer_norm", normalise_channels, "layer_norm"),
        ("linalg_inv_ex", pin_inputs, "linalg_inv_ex, through which channels are not followed,"),
    ],
)  # fmt: skip
def test_reasons_name_the_operator_plainly(name: str, rule: operators.Rule, words: str) -> None:
    assert operator_words(name, rule) == words
