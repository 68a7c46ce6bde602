"""Rules for operators along a dimension: sums, means, largest entries, softmax.

Channels along the dimension stay free where an operator measures them: the narrowed network measures those that
remain, and so does the masked one. Whether the user's code agrees (it may divide by their number) is for the trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from methods.graph.flow.call import Call, Planes
from methods.graph.flow.labels import varying_dims
from methods.graph.flow.planes import Value

_MEASURES = """
    all amax amin aminmax any count_nonzero linalg_vector_norm logsumexp max mean min nansum norm prod std std_mean sum
    var var_mean
"""
MEASURES = frozenset(_MEASURES.split())
"""Reductions that can be taken of some channels as well as of all."""
SOFTMAXES = frozenset(("_softmax", "_log_softmax", "_safe_softmax"))
"""Each channel relative to the others along the dimension."""

NORMS = frozenset(("native_layer_norm", "native_group_norm", "_fused_rms_norm"))
"""The same, with mean and variance."""


def reduced_dims(arguments: Mapping[str, Any], rank: int) -> set[int]:
    """The dimensions that a reduction or a softmax works along."""
    dim = arguments.get("dim")
    if dim is None or dim == []:
        return set(range(rank))
    return {d % max(rank, 1) for d in (dim if isinstance(dim, (list, tuple)) else [dim])}


def measured_planes(name: str, arguments: Mapping[str, Any], value: Value) -> list[Tensor]:
    """The planes of an operand that the operator measures: they lie wholly along its dimensions."""
    if name not in MEASURES | SOFTMAXES | NORMS:
        return []
    rank = len(value.shape)
    if name in NORMS:
        # Of `layer_norm(x, (C, 1, 1))`, those of more than one entry: one dimension alone can lose some of them.
        sizes = arguments.get("normalized_shape", ())
        dims = {1} if name == "native_group_norm" else {rank - len(sizes) + d for d, n in enumerate(sizes) if n > 1}
        return [plane for plane in value.planes if len(dims) == 1 and varying_dims(plane) == dims]
    dims = reduced_dims(arguments, rank)
    if name in SOFTMAXES:  # element by element, so that other dimensions do not matter
        return [plane for plane in value.planes if varying_dims(plane) & dims]
    return [plane for plane in value.planes if varying_dims(plane) <= dims]


def reduce_dims(call: Call) -> Planes:
    """Sums, means, maxima along dimensions.

    A plane that varies along other dimensions too (channels of a group, in all groups) is cut along those alone: the
    labels along the reduced ones belong together. So are the labels along an operator that tells places (argmax).
    """
    inputs = call.value_of(call.args[0])
    rank = len(inputs.shape)
    dims = reduced_dims(call.arguments, rank)
    measured = measured_planes(call.name, call.arguments, inputs)
    bound = [plane for plane in inputs.planes if not any(plane is other for other in measured)]
    planes = call.fix(bound, sorted(dims))
    if call.outputs[0].dim() == rank:
        return tuple(planes)
    rest = [d for d in range(rank) if d not in dims]
    return tuple(plane.reshape([plane.shape[d] for d in rest]) for plane in planes)


def scale_channels(call: Call) -> Planes:
    """Softmax: every channel has an output of its own."""
    return call.value_of(call.args[0]).planes


def work_along_dim(call: Call) -> Planes:
    """Cumulative sums, sorting: each entry depends on the places of all others along the dimension."""
    inputs = call.value_of(call.args[0])
    return tuple(call.fix(inputs.planes, sorted(reduced_dims({"dim": -1, **call.arguments}, len(inputs.shape)))))
