"""Times layer by layer: which kernel of onnxruntime belongs to which layer, and which layers lose most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.execution.inputs import Inputs
from search.export import layer_comparison as module
from search.export.layer_comparison import (
    OTHER,
    LayerTime,
    compare_layers,
    holding_back,
    holding_back_sentence,
    layer_milliseconds,
)
from search.export.signature import Signature, TensorInfo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIGNATURE = Signature(
    inputs=(TensorInfo(name="x", dtype="float32", shape=(None, 16, 8, 8)),),
    outputs=(TensorInfo(name="z", dtype="float32", shape=(None, 32, 8, 8)),),
)


def write_residual(path: Path) -> None:
    """Two convolutions with a shortcut as a third, an addition, activations, and a pooling that is no layer."""
    helper, kind, rng = onnx.helper, onnx.TensorProto.FLOAT, np.random.default_rng(0)
    shapes = {"a.conv.weight": (32, 16, 3, 3), "b.conv.weight": (32, 32, 3, 3), "shortcut.weight": (32, 16, 1, 1)}
    weights = [onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
               for name, shape in shapes.items()]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "a.conv.weight"], ["a"], name="n0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["a_relu"], name="n1"),
        helper.make_node("Conv", ["a_relu", "b.conv.weight"], ["b"], name="n2", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "shortcut.weight"], ["s"], name="n3"),
        helper.make_node("Add", ["b", "s"], ["sum"], name="n4"),
        helper.make_node("Relu", ["sum"], ["sum_relu"], name="n5"),
        helper.make_node("MaxPool", ["sum_relu"], ["z"], name="n6", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    values = [helper.make_tensor_value_info(name, kind, ["n", width, 8, 8]) for name, width in (("x", 16), ("z", 32))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_every_kernel_is_counted_for_the_layer_that_it_began_with(tmp_path: Path) -> None:
    write_residual(tmp_path / "model.onnx")
    times = layer_milliseconds(tmp_path / "model.onnx", Inputs.of(torch.randn(1, 16, 8, 8)), SIGNATURE, threads=1)
    assert list(times) == ["a.conv", "b.conv", "shortcut", OTHER]
    assert all(milliseconds > 0 for milliseconds in times.values()), times


def test_factors_count_as_the_layer_that_they_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        "dense.onnx": {"a.conv": 4.0, "b.conv": 2.0, OTHER: 1.0},
        "small.onnx": {"a.conv.inputs": 0.5, "a.conv.core": 1.5, "b.conv": 2.5, "added": 0.25, OTHER: 1.0},
    }
    monkeypatch.setattr(module, "layer_milliseconds", lambda path, *arguments: times[path.name])
    paths = tmp_path / "dense.onnx", tmp_path / "small.onnx"
    layers = compare_layers(*paths, Inputs.of(torch.zeros(1)), SIGNATURE, threads=1)
    assert [(layer.layer, layer.dense_ms, layer.compressed_ms) for layer in layers] == [
        ("a.conv", 4.0, 2.0), ("b.conv", 2.0, 2.5), (OTHER, 1.0, 1.25)]  # fmt: skip


def test_layers_that_gain_what_flops_promise_hold_nothing_back() -> None:
    layers = [LayerTime(layer=name, dense_ms=dense, compressed_ms=small)
              for name, dense, small in (("fast", 4.0, 1.0), ("as promised", 4.0, 2.0), ("slow", 2.0, 1.9),
                                         ("slower", 4.0, 4.1))]  # fmt: skip
    layers.append(LayerTime(layer=OTHER, dense_ms=9.0, compressed_ms=9.0))  # which is no layer
    assert [layer.layer for layer in holding_back(layers, theoretical=2.0)] == ["slower", "slow"]
    sentence = holding_back_sentence(layers, theoretical=2.0)
    assert "slower (4 → 4.1 ms), slow (2 → 1.9 ms)" in sentence
    assert holding_back_sentence(layers[:2], theoretical=2.0) == ""
