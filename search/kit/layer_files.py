"""One layer at given widths as an ONNX file: several copies of it side by side, whose results are added.

A layer alone has costs that it has not in a network: the session's own, and changes of layout on its way in and out.
A file with one copy has them too, so that

    time of the layer = (time of `copies` copies − time of one) / (copies − 1)

The additions join the convolutions in runtimes that fuse them, as those of a residual network do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from methods.graph.narrow import Conv, channels_of, is_depthwise
from search.kit.computed_weights import computed_weight
from search.latency.layer_times import Shape, blocks_of

OPSET, IR_VERSION = 17, 8  # whole networks are written as exports are, of newer ones
BATCH = "batch"
SPREAD = 0.05  # of weights


def layer_model(layer: nn.Module, shapes: Sequence[Shape], inputs: int, outputs: int, copies: int) -> Any:
    """An ONNX model of a convolution or linear layer with so many channels in and out.

    Args:
        shapes: of its dense input in each of its calls, see `input_shapes`; call i reads the input `x{i}`.
        inputs: as in `Grid`, 1 for a depthwise layer.
    """
    from onnx import TensorProto, helper

    taken = outputs // blocks_of(layer) if is_depthwise(layer) else inputs
    parts = _Parts()
    values, results = [], []
    for call, shape in enumerate(shapes):
        x = f"x{call}"
        own = (*shape[1:-1], taken) if isinstance(layer, nn.Linear) else (taken, *shape[2:])
        values.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, [BATCH, *own]))
        result = parts.add_layer(layer, x, f"call{call}/copy0", taken, outputs, len(own) + 1)
        for copy in range(1, copies):
            y = parts.add_layer(layer, x, f"call{call}/copy{copy}", taken, outputs, len(own) + 1)
            parts.nodes.append(helper.make_node("Add", [y, result], [f"{y}/sum"]))
            result = f"{y}/sum"
        results.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [BATCH, *[None] * len(own)]))
    graph = helper.make_graph(parts.nodes, "layer", values, results, parts.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _Parts:
    """Nodes and constants of a graph as it is made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add_layer(self, layer: nn.Module, x: str, name: str, inputs: int, outputs: int, dims: int) -> str:
        """One copy of the layer; the name of its result, of `dims` dimensions."""
        from onnx import helper

        bias = layer.bias is not None or isinstance(layer, Conv)  # a norm behind a convolution is folded into a bias
        result = f"{name}/result"
        if isinstance(layer, Conv):
            groups = inputs if is_depthwise(layer) else layer.groups
            sizes = (inputs, outputs // groups) if layer.transposed else (outputs, inputs // groups)
            operands = [x, *self._add_weights(name, (*sizes, *layer.kernel_size), outputs if bias else 0)]
            kind, attributes = ("ConvTranspose" if layer.transposed else "Conv"), _attributes(layer, groups)
            self.nodes.append(helper.make_node(kind, operands, [result], **attributes))
        elif dims == 2:
            operands = [x, *self._add_weights(name, (outputs, inputs), outputs if bias else 0)]
            self.nodes.append(helper.make_node("Gemm", operands, [result], transB=1))
        else:
            weight, *biases = self._add_weights(name, (inputs, outputs), outputs if bias else 0)
            product = f"{name}/product" if biases else result
            self.nodes.append(helper.make_node("MatMul", [x, weight], [product]))
            self.nodes += [helper.make_node("Add", [product, bias], [result]) for bias in biases]
        return result

    def _add_weights(self, name: str, shape: Sequence[int], biases: int) -> list[str]:
        names = []
        for part, sizes in (("weight", shape), ("bias", (biases,) if biases else None)):
            if sizes is None:
                continue
            names.append(f"{name}/{part}")
            nodes, constants = computed_weight(names[-1], sizes, phase=float(len(self.nodes)), spread=SPREAD)
            self.nodes += nodes
            self.constants += constants
        return names


def _attributes(layer: Conv, groups: int) -> dict[str, Any]:
    """ONNX's attributes of a convolution; padding of every mode is taken for zeros."""
    spans = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    match layer.padding:
        case "valid":
            before = after = [0] * len(spans)
        case "same":
            before, after = [span // 2 for span in spans], [span - span // 2 for span in spans]
        case padding:
            before = after = [int(size) for size in padding]
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": [*before, *after],
        "group": groups,
    }
    if layer.transposed:
        attributes["output_padding"] = list(layer.output_padding)
    return attributes


def weight_elements(layer: nn.Module, inputs: int, outputs: int) -> int:
    """The elements of its weight at these widths."""
    dense_inputs = 1 if is_depthwise(layer) else channels_of(layer, "in")
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight.numel() * inputs * outputs // (dense_inputs * channels_of(layer, "out"))
