"""The numbers in the calls of a network's code that may be widths, or come from widths, operator by operator.

A number is a width if the labels of channels vary along the dimension that it is the size of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from methods.graph.call_arguments import ATTENTION_SCALE, Number, Path, attention_scale, list_numbers
from methods.graph.flow.planes import Value


@dataclass(frozen=True)
class Extent:
    """Indices of one dimension of a tensor: the first ones, or, if negative, the last ones."""

    value: Value
    dim: int
    length: int


ReadNumber = tuple[Path, Number, Extent | None]
"""What is counted is None for a factor."""


@dataclass(frozen=True)
class TracedCall:
    """A call that the network's code has made.

    Attributes:
        value_of: what is known of a tensor.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    value_of: Callable[[Tensor], Value]

    @cached_property
    def numbers(self) -> dict[Path, Number]:
        """All numbers in the arguments, in their order."""
        return dict(list_numbers((self.args, self.kwargs)))

    def find_dim(self, position: int, rank: int) -> int:
        """The argument `dim`, 0 unless it is given."""
        return int(self.numbers.get((0, position), self.numbers.get((1, "dim"), 0))) % rank

    def count_along(self, path: Path, tensor: Tensor, dim: int) -> ReadNumber:
        """The number at `path` as one of indices of a dimension."""
        number = self.numbers[path]
        return path, number, Extent(self.value_of(tensor), dim, int(number))


def read_number(name: str, call: TracedCall) -> Iterator[ReadNumber]:
    """The numbers of one call that may depend on widths.

    Args:
        name: of the operator or of the tensor's method.
    """
    return _READERS.get(name, _read_floats)(call)


def _read_all_sizes(call: TracedCall) -> Iterator[ReadNumber]:
    """`view(2, 64, -1)`: one number for each dimension of the result."""
    if len(call.numbers) == call.result.dim():
        yield from _read_sizes(call, list(call.numbers), 0)


def _read_shape(call: TracedCall) -> Iterator[ReadNumber]:
    """`full((2, 64), 0.5)`, `x.new_full((2, 64), 0.5)`: the sizes come before what fills them."""
    yield from _read_sizes(call, list(call.numbers)[: call.result.dim()], 0)


def _read_range(call: TracedCall) -> Iterator[ReadNumber]:
    """`arange(64)`: a number for each place."""
    if len(call.numbers) == 1:
        yield from _read_sizes(call, list(call.numbers), 0)


def _read_unflatten(call: TracedCall) -> Iterator[ReadNumber]:
    """`unflatten(1, (2, 32))`: the dimension that is taken apart, then its sizes."""
    dim, *sizes = call.numbers
    return _read_sizes(call, sizes, int(call.numbers[dim]) % call.args[0].dim())


def _read_normalized_shape(call: TracedCall) -> Iterator[ReadNumber]:
    """`layer_norm(x, (64,), …)`, `rms_norm`: sizes of the last dimensions."""
    sizes = [path for path in call.numbers if path[:2] in ((0, 1), (1, "normalized_shape"))]
    return _read_sizes(call, sizes, call.result.dim() - len(sizes))


def _read_sizes(call: TracedCall, sizes: list[Path], first_dim: int) -> Iterator[ReadNumber]:
    """Sizes of the result's dimensions from `first_dim` on; -1 is right in any network."""
    for dim, path in enumerate(sizes, first_dim):
        if call.numbers[path] >= 0:
            yield call.count_along(path, call.result, dim)


def _read_split(call: TracedCall) -> Iterator[ReadNumber]:
    """`split([24, 20], 1)`, `split(24, 1)`: one size for all parts is that of the first; the last may be shorter."""
    sizes = [path for path in call.numbers if path[:2] == (0, 1) or str(path[1]).startswith("split_size")]
    dim = call.find_dim(2, call.result[0].dim())
    for path, part in zip(sizes, call.result, strict=False):
        yield call.count_along(path, part, dim)


def _read_narrow(call: TracedCall) -> Iterator[ReadNumber]:
    """`narrow(1, 24, 40)`: the first index counts those before it, the length those of the result."""
    dim = call.find_dim(1, call.args[0].dim())
    for path, tensor in (((0, 2), call.args[0]), ((0, 3), call.result)):
        if path in call.numbers:
            yield call.count_along(path, tensor, dim)


def _read_index(call: TracedCall) -> Iterator[ReadNumber]:
    """`x[:, 24:-8]`, read or written: bounds count indices from the beginning or from the end."""
    tensor, index = call.args[:2]
    items = index if isinstance(index, tuple) else (index,)
    used = sum(item.dim() if _is_mask(item) else 1 for item in items if item is not None and item is not Ellipsis)
    dim = 0
    for position, item in enumerate(items):
        if item is Ellipsis:
            dim += tensor.dim() - used
            continue
        if item is None:
            continue
        base: Path = (0, 1, position) if isinstance(index, tuple) else (0, 1)
        if isinstance(item, slice) and item.step in (None, 1):
            for name in ("start", "stop"):
                bound = getattr(item, name)
                if isinstance(bound, int) and bound and abs(bound) <= tensor.shape[dim]:
                    yield call.count_along((*base, name), tensor, dim)
        dim += item.dim() if _is_mask(item) else 1


def _is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype == torch.bool


def _read_convolution(call: TracedCall) -> Iterator[ReadNumber]:
    """`conv2d(x, kernel, groups=64)`: the groups of a depthwise convolution are its channels."""
    for path in ((1, "groups"), (0, 6)):
        if call.numbers.get(path) == call.result.shape[1] > 1:
            yield call.count_along(path, call.result, 1)


def _read_attention(call: TracedCall) -> Iterator[ReadNumber]:
    """The scale of scores is a factor that depends on the width of heads, also where it is not given."""
    scale = call.numbers.get(ATTENTION_SCALE)
    yield ATTENTION_SCALE, attention_scale(call.args, call.kwargs) if scale is None else scale, None


def _read_factors(call: TracedCall) -> Iterator[ReadNumber]:
    """`q * (dim // heads) ** -0.5`, `x / x.shape[1]`."""
    return ((path, number, None) for path, number in call.numbers.items())


def _read_floats(call: TracedCall) -> Iterator[ReadNumber]:
    """Of other operators only numbers that cannot be a dimension, an index or a kernel's size."""
    numbers = ((path, number) for path, number in call.numbers.items() if path not in _RATES)
    return ((path, number, None) for path, number in numbers if isinstance(number, float))


_RATES = frozenset(((1, "eps"), (1, "momentum"), (1, "p")))  # of norms and dropout, whatever the width
_ARITHMETIC = [
    f"{before}{name}{after}"
    for name in ("mul", "div", "truediv", "true_divide", "floordiv", "floor_divide", "add", "sub", "pow")
    for before, after in (("", ""), ("", "_"), ("__", "__"), ("__r", "__"), ("__i", "__"))
]  # mul, mul_, __mul__, __rmul__, __imul__

_READERS: dict[str, Callable[[TracedCall], Iterator[ReadNumber]]] = {
    "view": _read_all_sizes,
    "reshape": _read_all_sizes,
    "expand": _read_all_sizes,
    **dict.fromkeys(("zeros", "ones", "empty", "rand", "randn"), _read_all_sizes),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty"), _read_all_sizes),
    **dict.fromkeys(("full", "new_full"), _read_shape),
    "arange": _read_range,
    "unflatten": _read_unflatten,
    "layer_norm": _read_normalized_shape,
    "rms_norm": _read_normalized_shape,
    "split": _read_split,
    "split_with_sizes": _read_split,
    "narrow": _read_narrow,
    "narrow_copy": _read_narrow,
    "__getitem__": _read_index,
    "__setitem__": _read_index,
    "conv1d": _read_convolution,
    "conv2d": _read_convolution,
    "conv3d": _read_convolution,
    "scaled_dot_product_attention": _read_attention,
    **dict.fromkeys(_ARITHMETIC, _read_factors),
}
