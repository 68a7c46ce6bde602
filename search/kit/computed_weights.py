"""Weights that a file computes from a few constants: files stay tiny, and runtimes fold them when they open the file.

    w = mean + √2 · spread · sin(phase + 0, 1, 2, ...)

Times do not depend on what the weights are, as long as they are ordinary numbers. Equal weights would be found and
their layers computed once, so each has a phase of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LARGE = 256  # elements; smaller tensors stay as they are


def computed_weight(
    name: str, shape: Sequence[int], *, phase: float, spread: float, mean: float = 0.0
) -> tuple[list[Any], list[Any]]:
    """Nodes that compute a float32 tensor of this name and shape, and their constants, as ONNX protos."""
    from onnx import helper, numpy_helper

    count = math.prod(shape)
    values: dict[str, Any] = {
        "start": np.float32(0), "limit": np.float32(count), "step": np.float32(1), "phase": np.float32(phase),
        "scale": np.float32(math.sqrt(2) * spread), "mean": np.float32(mean), "shape": np.array(shape, dtype=np.int64),
    }  # fmt: skip
    constants = [numpy_helper.from_array(np.asarray(value), f"{name}/{part}") for part, value in values.items()]
    steps = [
        ("Range", ["start", "limit", "step"], "numbers"),
        ("Add", ["numbers", "phase"], "angles"),
        ("Sin", ["angles"], "waves"),
        ("Mul", ["waves", "scale"], "scaled"),
        ("Add", ["scaled", "mean"], "flat"),
    ]
    nodes = [helper.make_node(op, [f"{name}/{part}" for part in parts], [f"{name}/{result}"])
             for op, parts, result in steps]  # fmt: skip
    return [*nodes, helper.make_node("Reshape", [f"{name}/flat", f"{name}/shape"], [name])], constants


def compute_weights(model: Any) -> None:
    """Replace the large float32 initialisers of an ONNX model, each by one of the same mean and spread."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    kept, nodes = [], list[Any]()
    for number, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) <= LARGE:
            kept.append(tensor)
            continue
        values = numpy_helper.to_array(tensor)
        made, constants = computed_weight(
            tensor.name, tensor.dims, phase=float(number), spread=float(values.std()), mean=float(values.mean())
        )
        nodes += made
        kept += constants
    nodes += graph.node
    # Copies: the lists hold messages that are parts of the graph, and clearing a field ends its messages.
    kept, nodes = [_copy(part) for part in kept], [_copy(part) for part in nodes]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _copy(message: Any) -> Any:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin
