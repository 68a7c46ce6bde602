"""Where the time of an exported network goes in ONNX Runtime: layer by layer, the dense network beside it.

The runtime's profiler times its kernels. A kernel goes by the tensor that it puts out, or by the node that it was;
following these back through norms, activations and additions leads to the convolution or product it began with. What
belongs to no layer (changes of layout, pooling, additions of their own), or to one whose weights the file has under no
name of theirs (linear layers on rows of vectors), is one line.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.execution.inputs import Inputs
from search.candidate import Frozen
from search.export.signature import Signature

RUNS = 30
OTHER = "no layer by name (changes of layout, pooling, ...)"
_THROUGH = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "BatchNormalization", "Add")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ENDING = "_kernel_time"


class LayerTime(Frozen):
    """One layer of the dense network, and what became of it."""

    layer: str
    dense_ms: float
    compressed_ms: float

    def lost_ms(self, theoretical: float) -> float:
        """What it takes beyond its share of what the FLOPs promise the whole network."""
        return self.compressed_ms - self.dense_ms / theoretical


def compare_layers(
    dense: Path, compressed: Path, inputs: Inputs, signature: Signature, threads: int
) -> list[LayerTime]:
    """Times of all layers of two ONNX files, in the dense network's order; factors of a layer count as that layer.

    Args:
        inputs: one batch, on the CPU.
    """
    dense_times, small_times = (layer_milliseconds(path, inputs, signature, threads) for path in (dense, compressed))
    by_layer: dict[str, float] = defaultdict(float)
    for name, milliseconds in small_times.items():
        by_layer[_dense_layer(name, dense_times)] += milliseconds
    names = [name for name in dense_times if name != OTHER]
    return [LayerTime(layer=name, dense_ms=dense_times.get(name, 0.0), compressed_ms=by_layer.get(name, 0.0))
            for name in (*names, OTHER)]  # fmt: skip


def _dense_layer(name: str, dense: Iterable[str]) -> str:
    """The dense network's layer that a layer stems from: itself, or the one whose factor it is."""
    known = set(dense)
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or OTHER


def layer_milliseconds(path: Path, inputs: Inputs, signature: Signature, threads: int) -> dict[str, float]:
    """Layer -> the median over runs of the time of its kernels; `OTHER` last."""
    import onnx
    import onnxruntime

    layers = _layers_by_name(onnx.load(path).graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = {info.name for info in session.get_inputs()}
        feeds = {info.name: tensor.numpy() for info, tensor in zip(signature.inputs, inputs.tensors, strict=True)
                 if info.name in taken}  # fmt: skip
        for _ in range(RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    microseconds: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_ENDING):
            microseconds[event["name"].removesuffix(_ENDING)].append(event["dur"])
    times = dict.fromkeys(dict.fromkeys(layers.values()), 0.0) | {OTHER: 0.0}
    for kernel, durations in microseconds.items():
        times[layers.get(kernel.removesuffix("_nchwc"), OTHER)] += statistics.median(durations) / 1000
    return times


def _layers_by_name(graph: Any) -> dict[str, str]:
    """Names that a kernel may go by (a node's own, or a tensor's that ends a chain of fused nodes) -> the layer."""
    weights = {tensor.name for tensor in graph.initializer}
    layers: dict[str, str] = {}
    for node in graph.node:  # in order of execution
        layer = None
        if node.op_type in _PRODUCTS:
            weight = next((name for name in node.input[1:2] if name in weights), None)
            layer = weight and weight.rpartition(".")[0]
        elif node.op_type in _THROUGH:
            layer = next((layers[name] for name in node.input if name in layers), None)
        if layer:
            layers |= dict.fromkeys(node.output, layer)
            if node.op_type in _PRODUCTS:
                layers[node.name] = layer
    return layers


def holding_back(layers: Iterable[LayerTime], theoretical: float, most: int = 3) -> list[LayerTime]:
    """The layers that lose most against what the FLOPs promise."""
    losing = [layer for layer in layers if layer.layer != OTHER and layer.lost_ms(theoretical) > 0]
    return sorted(losing, key=lambda layer: layer.lost_ms(theoretical), reverse=True)[:most]


def holding_back_sentence(layers: Iterable[LayerTime], theoretical: float) -> str:
    """Which layers these are, with their times; empty if there is none."""
    slow = holding_back(layers, theoretical)
    if not slow:
        return ""
    texts = [f"{layer.layer} ({layer.dense_ms:.3g} → {layer.compressed_ms:.3g} ms)" for layer in slow]
    return f"In onnxruntime these hold it back most: {', '.join(texts)}."


def layer_rows(layers: Iterable[LayerTime]) -> list[Mapping[str, str]]:
    """Lines of a table: layer, milliseconds dense and compressed, and how many times faster."""
    return [
        {
            "layer": layer.layer,
            "dense ms": f"{layer.dense_ms:.3g}",
            "compressed ms": f"{layer.compressed_ms:.3g}",
            "faster by": f"{layer.dense_ms / layer.compressed_ms:.2f}×" if layer.compressed_ms else "",
        }
        for layer in layers
    ]
