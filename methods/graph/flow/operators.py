"""What each kind of operator does to planes of labels.

A rule is called as `rule(call)` and returns the planes of the result, which stand for every tensor that the operator
returns; a list has the planes of each of them. An operator without a rule pins whatever enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from methods.graph.flow.labels import FIXED, Labels, compact, varying_dims
from methods.graph.flow.planes import Value, concatenate, contract, join_elements

Planes = tuple[Tensor, ...]


@dataclass
class Call:
    """One call of an operator: its arguments, and what is known of their tensors.

    Attributes:
        arguments: by the names of the operator's schema.
        value_of: what is known of a tensor among the arguments.
        outputs: the tensors that it returned.
        reason: what to say of channels that have to stay because of it.
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
    grouped_inputs: Callable[[Tensor, int], Tensor]
    splits: list[Tensor]

    def values(self) -> list[Value]:
        return [self.value_of(leaf) for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def fix(self, planes: Sequence[Tensor], dims: Sequence[int]) -> list[Tensor]:
        fixed = [self.labels.fix(plane, dims, self.reason) for plane in planes]
        return [plane for plane in fixed if plane is not None]


def pin_inputs(call: Call) -> Planes:
    for value in call.values():
        for plane in value.planes:
            call.labels.pin(plane, call.reason)
    return ()


def keep_elements(call: Call) -> Planes:
    """Element-wise operators of any number of operands; scalars have no say."""
    operands = [value for value in call.values() if len(value.shape)]
    shape = call.outputs[0].shape
    return join_elements(call.labels, operands, shape, call.reason)


def write_elements(call: Call) -> Planes:
    """`copy_`: whatever stood there is gone."""
    source = call.value_of(call.args[1])
    return join_elements(call.labels, [source], call.outputs[0].shape, call.reason)


def move_elements(call: Call) -> list[Planes]:
    """Pure movement of data is done to the labels by the same operator."""
    leaves, tree = tree_flatten((call.args, call.kwargs))
    moved_at = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    value = call.value_of(leaves[moved_at])
    results = [list[Tensor]() for _ in call.outputs]
    for plane in value.planes:
        leaves[moved_at] = plane.expand(value.shape)
        args, kwargs = tree_unflatten(leaves, tree)
        for planes, moved in zip(results, _run_on_labels(call.func, args, kwargs), strict=True):
            planes.append(compact(moved))
    return [tuple(planes) for planes in results]


def _run_on_labels(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    try:
        result = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError):  # an operator that knows floating point alone; exact up to 2**53
        leaves, tree = tree_flatten((args, kwargs))
        doubled = [leaf.double() if isinstance(leaf, Tensor) and leaf.dtype == torch.int64 else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(doubled, tree)
        result = func(*args, **kwargs)
    return [leaf.long() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def reshape_elements(call: Call) -> Planes:
    """A dimension may be split: which of its parts shrinks is settled when all uses are known (`settle_splits`)."""
    value = call.value_of(call.args[0])
    planes = []
    for plane in value.planes:
        moved = compact(plane.expand(value.shape).reshape(call.outputs[0].shape))
        if len(varying_dims(moved)) > len(varying_dims(plane)):
            call.splits.append(moved)
        planes.append(moved)
    return tuple(planes)


def pad_elements(call: Call) -> Planes:
    """Positions are padded freely; a padded dimension of channels has to keep the channels beside the padding."""
    value = call.value_of(call.args[0])
    pad: list[int] = list(call.args[1])
    padded = {len(value.shape) - 1 - i // 2 for i, amount in enumerate(pad) if amount}
    planes = []
    for plane in value.planes:
        if not varying_dims(plane) & padded:
            planes.append(plane)
            continue
        whole = plane.expand([value.shape[d] if d in padded else size for d, size in enumerate(plane.shape)])
        planes.append(torch.nn.functional.pad(whole, pad, value=FIXED))
    return tuple(planes)


def slice_elements(call: Call) -> list[Planes]:
    """A slice of channels: equal parts of the dimension have to stay equally long, so they are cut alike."""
    value = call.value_of(call.args[0])
    dim = int(call.arguments.get("dim") or 0) % len(value.shape)
    size = value.shape[dim]
    for plane in value.planes:
        if dim not in varying_dims(plane):
            continue
        if call.name == "select":
            length, start = 1, int(call.arguments["index"]) % size
        elif call.name == "slice":
            start = min(int(call.arguments.get("start") or 0) % (size + 1), size)
            length = call.outputs[0].shape[dim]
            if int(call.arguments.get("step") or 1) != 1:
                continue
        elif call.name in ("split", "unbind"):
            start, length = 0, 1 if call.name == "unbind" else call.outputs[0].shape[dim]
        else:  # split_with_sizes
            sizes = {output.shape[dim] for output in call.outputs}
            start, length = 0, sizes.pop() if len(sizes) == 1 else size
        if 0 < length < size and size % length == 0 and start % length == 0:
            parts = plane.unflatten(dim, (size // length, length))
            call.labels.unite(parts, parts.narrow(dim, 0, 1), call.reason)
    return move_elements(call)


def concatenate_elements(call: Call) -> Planes:
    tensors = [tensor for tensor in call.args[0] if tensor.dim() > 1 or tensor.numel()]
    rank = call.outputs[0].dim()
    dim = int(call.arguments.get("dim") or 0) % rank
    values = [call.value_of(tensor) for tensor in tensors]
    if call.name == "stack":
        values = [_with_dim(value, dim) for value in values]
    return concatenate(call.labels, values, dim, call.reason)


def _with_dim(value: Value, dim: int) -> Value:
    shape = torch.Size((*value.shape[:dim], 1, *value.shape[dim:]))
    return Value(shape, tuple(plane.unsqueeze(dim) for plane in value.planes), value.is_data)


def convolve(call: Call) -> Planes:
    inputs, weight = call.value_of(call.args[0]), call.value_of(call.args[1])
    bias = call.args[2]
    transposed, groups = bool(call.arguments["transposed"]), int(call.arguments["groups"])
    if transposed and groups > 1:
        return pin_inputs(call)
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    rank = len(weight.shape)
    outputs = []
    for plane in weight.planes:
        if out_dim in varying_dims(plane):
            outputs += call.fix([plane], [d for d in range(rank) if d != out_dim])
    if groups == 1:
        contract(call.labels, inputs, weight, 1, in_dim, 0, call.reason)
    else:
        virtual = call.grouped_inputs(call.args[1], inputs.shape[1])
        column = Value(torch.Size((len(virtual), 1)), (virtual[:, None],))
        contract(call.labels, inputs, column, 1, 0, 0, call.reason)
        if weight.shape[1] == 1:  # depthwise, of any multiplier: a channel and its filters are one thing
            repeated = virtual.repeat_interleave(weight.shape[0] // groups)
            for plane in outputs:
                call.labels.unite(plane.reshape(-1), repeated, call.reason)
            if not outputs:
                call.labels.pin(virtual, call.reason)
    shape = [1, call.outputs[0].shape[1]] + [1] * (rank - 2)
    planes = [plane.reshape(shape) for plane in outputs]
    if bias is not None:
        joined = [Value(torch.Size(shape), (plane,)) for plane in planes]
        biases = call.value_of(bias)
        value = Value(torch.Size(shape), tuple(plane.reshape(shape) for plane in biases.planes), biases.is_data)
        planes = list(join_elements(call.labels, [*joined[:1], value], torch.Size(shape), call.reason))
    batch = [plane for plane in inputs.planes if 1 not in varying_dims(plane)]
    return (*planes, *call.fix(batch, range(1, len(inputs.shape))))


def multiply_matrices(call: Call) -> Planes:
    """`mm`, `bmm`, and with a term that is added: `addmm`, `baddbmm`."""
    left, right = (call.value_of(tensor) for tensor in call.args[-2:])
    planes = _product(call, left, right)
    if len(call.args) == 3:
        shape = call.outputs[0].shape
        term = call.value_of(call.args[0])
        planes = join_elements(call.labels, [term, Value(shape, planes)], shape, call.reason)
    return planes


def _product(call: Call, left: Value, right: Value) -> Planes:
    """The planes of left @ right, whose leading dimensions agree."""
    rank = len(left.shape)
    contract(call.labels, left, right, rank - 1, rank - 2, rank - 2, call.reason)
    rows = tuple(plane for plane in left.planes if rank - 1 not in varying_dims(plane))
    columns = tuple(plane for plane in right.planes if rank - 2 not in varying_dims(plane))
    one = Value(torch.Size((*left.shape[:-1], 1)), rows, left.is_data)
    other = Value(torch.Size((*right.shape[:-2], 1, right.shape[-1])), columns, right.is_data)
    shape = torch.Size((*left.shape[:-1], right.shape[-1]))
    return join_elements(call.labels, [one, other], shape, call.reason)


def attend(call: Call) -> Planes:
    """Fused attention: its scale holds the width of queries and keys; values pass."""
    query, key, value = (call.value_of(tensor) for tensor in call.args[:3])
    for operand in (query, key):
        for plane in operand.planes:
            if len(plane.shape) - 1 in varying_dims(plane):
                call.labels.pin(plane, call.reason)
    rank = len(query.shape)
    weights = Value(torch.Size((*query.shape[:-1], key.shape[-2])))
    rows = tuple(plane for plane in query.planes if rank - 1 not in varying_dims(plane))
    return _product(call, Value(weights.shape, rows), value)


def normalise_channels(call: Call) -> Planes:
    """Batch, instance, group and layer norms: affine parameters and statistics go with their channels."""
    inputs = call.value_of(call.args[0])
    rank = len(inputs.shape)
    operands = [inputs]
    for tensor in call.args[1:]:
        if not isinstance(tensor, Tensor):
            continue
        value = call.value_of(tensor)
        if call.name == "native_layer_norm":
            operands.append(value)
            continue
        shape = (1, value.shape[0]) + (1,) * (rank - 2)
        operands.append(Value(torch.Size(shape), tuple(plane.reshape(shape) for plane in value.planes), value.is_data))
    return join_elements(call.labels, operands, inputs.shape, call.reason)


def pool_positions(call: Call) -> Planes:
    """Pooling and resampling of the last dimensions, whose number is in the operator's name."""
    spatial = next((int(digit) for digit in "123" if f"{digit}d" in call.name), 2)
    values = call.values()
    inputs = values[0]
    planes = call.fix(inputs.planes, range(len(inputs.shape) - spatial, len(inputs.shape)))
    joined = [Value(torch.Size((*inputs.shape[:-spatial], *(1,) * spatial)), tuple(planes))]
    for value in values[1:]:  # the indices of an unpooling
        others = call.fix(value.planes, range(len(value.shape) - spatial, len(value.shape)))
        joined.append(Value(joined[0].shape, tuple(others), value.is_data))
    return join_elements(call.labels, joined, joined[0].shape, call.reason)


def reduce_dims(call: Call) -> Planes:
    """Sums, means, maxima along dimensions; channels along them belong together, all of them: they have to stay."""
    inputs = call.value_of(call.args[0])
    rank = len(inputs.shape)
    dim = call.arguments.get("dim")
    dims = range(rank) if dim is None or dim == [] else [d % rank for d in (dim if isinstance(dim, (list, tuple)) else [dim])]
    planes = call.fix(inputs.planes, list(dims))
    if call.outputs[0].dim() == rank:
        return tuple(planes)
    rest = [d for d in range(rank) if d not in dims]
    return tuple(plane.reshape([plane.shape[d] for d in rest]) for plane in planes)


def work_along_dim(call: Call) -> Planes:
    """Softmax, cumulative sums, sorting: each entry depends on all others along the dimension."""
    inputs = call.value_of(call.args[0])
    dim = int(call.arguments.get("dim", -1)) % max(len(inputs.shape), 1)
    return tuple(call.fix(inputs.planes, [dim]))


def embed_rows(call: Call) -> Planes:
    weight = call.value_of(call.args[0])
    planes = call.fix(weight.planes, [0])
    rank = call.outputs[0].dim()
    return tuple(plane.reshape((1,) * (rank - 1) + (plane.shape[1],)) for plane in planes)


_MOVES = (
    "alias clone contiguous detach _to_copy lift_fresh lift_fresh_copy permute transpose t expand squeeze unsqueeze "
    "flip roll repeat index_select unfold as_strided pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "diagonal im2col reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d index gather tile narrow "
    "_reshape_alias_copy expand_copy movedim swapaxes"
)
_RULES: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(_MOVES.split(), move_elements),
    **dict.fromkeys("view _unsafe_view reshape _reshape_alias unflatten flatten".split(), reshape_elements),
    **dict.fromkeys("slice select split split_with_sizes unbind".split(), slice_elements),
    **dict.fromkeys("cat stack".split(), concatenate_elements),
    "constant_pad_nd": pad_elements,
    "convolution": convolve,
    **dict.fromkeys("mm bmm addmm baddbmm".split(), multiply_matrices),
    **dict.fromkeys(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable".split(),
        attend,
    ),
    **dict.fromkeys(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "miopen_batch_norm _batch_norm_no_update native_group_norm native_layer_norm".split(),
        normalise_channels,
    ),
    **dict.fromkeys("_softmax _log_softmax cumsum cumprod sort topk logcumsumexp".split(), work_along_dim),
    **dict.fromkeys(
        "mean sum var std amax amin max min prod norm linalg_vector_norm logsumexp argmax argmin any all var_mean "
        "std_mean median mode".split(),
        reduce_dims,
    ),
    **dict.fromkeys("copy copy_".split(), write_elements),
    "embedding": embed_rows,
}
_POOLS = ("pool1d", "pool2d", "pool3d", "upsample", "unpool", "grid_sampler")
_ELEMENTWISE = set(
    "hardswish hardswish_ hardsigmoid silu mish prelu _prelu_kernel dropout native_dropout bernoulli_ where masked_fill "
    "clamp clamp_min clamp_max addcmul addcdiv lerp hardtanh leaky_relu gelu elu".split()
)
_MADE_FROM_SHAPES = set(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_empty_strided "
    "bernoulli bernoulli_ normal_ uniform_ fill_ zero_".split()
)


def made_from_shapes(name: str, number_of_tensors: int) -> bool:
    """Whether the operator's result holds nothing of its operands but their shapes."""
    return number_of_tensors == 0 or name in _MADE_FROM_SHAPES


def rule_of(func: Any, name: str, arguments: dict[str, Any]) -> Callable[[Call], Any]:
    """The rule of an operator; `pin_inputs` for one that is unknown."""
    plain = name.removesuffix("_") if name != "copy_" else name
    # `max` of two tensors is element-wise, of one tensor a reduction.
    if plain in ("max", "min") and isinstance(arguments.get("other"), Tensor):
        return keep_elements
    if plain in _RULES:
        return _RULES[plain]
    if any(part in name for part in _POOLS):
        return pool_positions
    if torch.Tag.pointwise in func.tags or name in _ELEMENTWISE or plain in _ELEMENTWISE:
        return keep_elements
    return pin_inputs

