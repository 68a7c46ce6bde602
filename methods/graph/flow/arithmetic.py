"""Rules for operators that compute: element by element, or summed over an index."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from methods.graph.flow.call import Call, Planes, pin_inputs
from methods.graph.flow.labels import varying_dims
from methods.graph.flow.planes import Value, contract, join_elements
from methods.graph.narrow import weight_dims
from methods.graph.products import transposed_outputs
from models.execution.tensor_leaves import tensor_leaves


def keep_elements(call: Call) -> Planes:
    """Element-wise operators of any number of operands; scalars have no say."""
    tensors = [leaf for leaf in tensor_leaves((call.args, call.kwargs)) if leaf.dim()]
    operands = []
    for tensor in tensors:
        # An expanded dimension holds one entry, which meets any number of channels.
        sizes = [size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
        operands.append(replace(call.value_of(tensor), shape=torch.Size(sizes)))
    shape = call.outputs[0].shape
    return join_elements(call.labels, operands, shape, call.reason)


def gate_halves(call: Call) -> Planes:
    """`glu`: the second half of a dimension gates the first one."""
    value = call.value_of(call.args[0])
    dim = int(call.arguments.get("dim", -1)) % len(value.shape)
    planes = []
    for plane in value.planes:
        if dim in varying_dims(plane):
            first, second = plane.chunk(2, dim)
            call.labels.unite(first, second, call.reason)
            plane = first
        planes.append(plane)
    return tuple(planes)


def convolve(call: Call) -> Planes:
    """Sums over input channels, filter by filter; planes of positions or of the batch are united along the channels."""
    inputs, weight, bias = call.value_of(call.args[0]), call.value_of(call.args[1]), call.args[2]
    transposed, groups = bool(call.arguments["transposed"]), int(call.arguments["groups"])
    # A transposed weight is (in, out / groups, *kernel); of a depthwise one, dimension 0 is both.
    depthwise = transposed and groups == weight.shape[0] and weight.shape[1] == 1
    rank, outputs = len(weight.shape), transposed_outputs(call.args)
    out_dim, in_dim = weight_dims(transposed=transposed, depthwise=depthwise)
    if outputs is None:
        produced = [plane for plane in weight.planes if out_dim in varying_dims(plane)]
        filters = call.fix(produced, [d for d in range(rank) if d != out_dim])
    else:
        labels = call.grouped_labels(call.args[1], "out", outputs)
        if labels is None:
            return pin_inputs(call)
        filters = [labels]
    if groups == 1 or transposed:
        contract(call.labels, inputs, weight, 1, in_dim, 0, call.reason)
    else:
        _contract_groups(call, inputs, weight, filters)
    shape = torch.Size([1, call.outputs[0].shape[1]] + [1] * (rank - 2))
    planes = [plane.reshape(shape) for plane in filters]
    if bias is not None:
        biases = call.value_of(bias)
        added = Value(shape, tuple(plane.reshape(shape) for plane in biases.planes), biases.is_data)
        summands = [Value(shape, (plane,)) for plane in planes[:1]]
        planes = list(join_elements(call.labels, [*summands, added], shape, call.reason))
    positions = [plane for plane in inputs.planes if 1 not in varying_dims(plane)]
    # A kernel of one position does to each what it does to all others.
    stride, padding = call.arguments["stride"], call.arguments["padding"]
    apart = {d for d in range(2, rank) if weight.shape[d] == stride[d - 2] == 1 and padding[d - 2] == 0}
    return (*planes, *call.fix(positions, [d for d in range(1, rank) if d not in apart]))


def _contract_groups(call: Call, inputs: Value, weight: Value, filters: list[Tensor]) -> None:
    """An index along a grouped weight's inputs stands for a channel of every group; each has a label of its own."""
    labels = call.grouped_labels(call.args[1], "in", inputs.shape[1])
    if labels is None:
        for plane in (*inputs.planes, *filters):
            call.labels.pin(plane, call.reason)
        return
    column = Value(torch.Size((len(labels), 1)), (labels[:, None],))
    contract(call.labels, inputs, column, 1, 0, 0, call.reason)
    if weight.shape[1] == 1:  # depthwise, of any multiplier: a channel and its filters are one thing
        repeated = labels.repeat_interleave(weight.shape[0] // len(labels))
        for plane in filters:
            call.labels.unite(plane.reshape(-1), repeated, call.reason)
        if not filters:
            call.labels.pin(labels, call.reason)


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
    rows, columns = _cut_alike(call, rows, columns, rank)
    left_factor = Value(torch.Size((*left.shape[:-1], 1)), rows, left.is_data)
    right_factor = Value(torch.Size((*right.shape[:-2], 1, right.shape[-1])), columns, right.is_data)
    shape = torch.Size((*left.shape[:-1], right.shape[-1]))
    return join_elements(call.labels, [left_factor, right_factor], shape, call.reason)


def _cut_alike(call: Call, rows: Planes, columns: Planes, rank: int) -> tuple[Planes, Planes]:
    """Rows and columns that both differ by head (attention among channels) are cut alike in all heads.

    Either could be cut by itself then; whole heads could only go together, and not a row of one alone.
    """
    of_heads = set(range(rank - 2))
    by_row = [plane for plane in rows if varying_dims(plane) & of_heads and rank - 2 in varying_dims(plane)]
    by_column = [plane for plane in columns if varying_dims(plane) & of_heads and rank - 1 in varying_dims(plane)]
    if not by_row or not by_column:
        return rows, columns

    def unite_heads(plane: Tensor) -> Tensor:
        for d in varying_dims(plane) & of_heads:
            call.labels.unite(plane, plane.narrow(d, 0, 1), call.reason)
            plane = plane.narrow(d, 0, 1)
        return plane

    cut = {id(plane) for plane in [*by_row, *by_column]}
    alike = [tuple(unite_heads(plane) if id(plane) in cut else plane for plane in planes) for planes in (rows, columns)]
    return alike[0], alike[1]


def attend(call: Call) -> Planes:
    """Fused attention: queries and keys are summed over their last dimension, beside heads; values pass.

    The scale holds the dense width; a narrowed network is told it (`CallRecorder`).
    """
    query, key, value = (call.value_of(tensor) for tensor in call.args[:3])
    rank = len(query.shape)
    contract(call.labels, query, key, rank - 1, rank - 1, rank - 2, call.reason)
    weights = Value(torch.Size((*query.shape[:-1], key.shape[-2])))
    rows = tuple(plane for plane in query.planes if rank - 1 not in varying_dims(plane))
    return _product(call, Value(weights.shape, rows), value)


def normalise_channels(call: Call) -> Planes:
    """Batch, instance, group and layer norms: affine parameters and statistics go with their channels.

    A group norm without a module has no groups that could be balanced: the same position of every group goes.
    """
    inputs = call.value_of(call.args[0])
    rank = len(inputs.shape)
    if call.name == "native_group_norm" and not call.in_norm and int(call.arguments["group"]) > 1:
        for plane in inputs.planes:
            if 1 in varying_dims(plane):
                parts = plane.unflatten(1, (int(call.arguments["group"]), -1))
                call.labels.unite(parts, parts.narrow(1, 0, 1), call.reason)
    operands = [inputs]
    for tensor in call.args[1:]:
        if not isinstance(tensor, Tensor):
            continue
        value = call.value_of(tensor)
        if call.name in ("native_layer_norm", "_fused_rms_norm"):
            operands.append(value)
            continue
        shape = (1, value.shape[0]) + (1,) * (rank - 2)
        operands.append(Value(torch.Size(shape), tuple(plane.reshape(shape) for plane in value.planes), value.is_data))
    return join_elements(call.labels, operands, inputs.shape, call.reason)


def sample_positions(call: Call) -> Planes:
    """Images at places that other tensors name (grids, regions): channels pass, whatever the places are made of."""
    images, *places = call.values()
    for value in places:
        for plane in value.planes:
            call.labels.pin(plane, call.reason)
    return tuple(call.fix(images.planes, [d for d in range(len(images.shape)) if d != 1]))


def fold_patches(call: Call) -> Planes:
    """`nn.Fold` adds overlapping patches up: of a channel, the entries of all places in a patch go together."""
    value, area = call.value_of(call.args[0]), math.prod(call.arguments["kernel_size"])
    channels = len(value.shape) - 2  # (batch, channels · places, patches), or without a batch
    planes = []
    for plane in value.planes:
        places = (-1, area) if plane.shape[channels] > 1 else (1, 1)
        planes.append(plane.unflatten(channels, places))  # the number of dimensions of an image
    return tuple(call.fix(planes, [channels + 1, channels + 2]))


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
