"""Layers as ONNX files: what a runtime makes of them, against the same layers of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from search.kit.computed_weights import compute_weights, computed_weight
from search.kit.layer_files import layer_model, weight_elements
from search.latency.layer_times import narrow_layer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LAYERS = [
    (nn.Conv2d(32, 64, 3, padding=1), (1, 32, 9, 9), 16, 24),
    (nn.Conv2d(32, 64, 3, stride=2, padding="valid", dilation=2), (1, 32, 9, 9), 32, 16),
    (nn.Conv2d(32, 64, (3, 4), padding="same"), (1, 32, 9, 9), 8, 64),
    (nn.Conv2d(32, 32, 3, groups=32), (1, 32, 9, 9), 1, 16),
    (nn.Conv2d(32, 64, 3, groups=4, bias=False), (1, 32, 9, 9), 16, 32),
    (nn.Conv1d(8, 16, 5, padding=2), (2, 8, 12), 4, 8),
    (nn.Conv3d(4, 8, 3, padding=1), (1, 4, 5, 5, 5), 2, 4),
    (nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), (1, 16, 5, 5), 8, 4),
    (nn.Linear(32, 10), (1, 32), 16, 10),
    (nn.Linear(32, 64, bias=False), (1, 7, 32), 16, 48),
]


@pytest.mark.parametrize(("layer", "shape", "inputs", "outputs"), LAYERS, ids=str)
def test_a_file_takes_and_returns_what_the_narrow_layer_does(
    layer: nn.Module, shape: tuple[int, ...], inputs: int, outputs: int
) -> None:
    small = narrow_layer(layer, inputs, outputs)
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels
    taken = outputs if depthwise else inputs
    own = (*shape[:-1], taken) if isinstance(layer, nn.Linear) else (shape[0], taken, *shape[2:])
    x = torch.randn(own)
    model = layer_model(layer, [shape], inputs, outputs, copies=3)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x0": x.numpy()})
    assert result.shape == tuple(small(x).shape)
    assert np.isfinite(result).all()
    assert weight_elements(layer, inputs, outputs) == small.weight.numel()


def test_runtimes_fold_the_weights_and_keep_every_copy(tmp_path: Path) -> None:
    model = layer_model(nn.Conv2d(64, 64, 3, padding=1), [(1, 64, 8, 8)], 64, 64, copies=4)
    assert len(model.SerializeToString()) < 10_000  # of weights alone there are 590,000 bytes
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert sum("Conv" in operator for operator in operators) == 4
    assert not {"Range", "Sin", "Reshape"} & {*operators}


def test_computed_weights_have_the_mean_and_spread_that_are_asked_for() -> None:
    nodes, constants = computed_weight("w", (50, 40), phase=3.0, spread=0.2, mean=-1.5)
    graph = onnx.helper.make_graph(
        nodes, "g", [], [onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [50, 40])], constants
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (weight,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {}
    )
    expected = -1.5 + np.sqrt(2) * 0.2 * np.sin(3.0 + np.arange(2000)).reshape(50, 40)
    np.testing.assert_allclose(weight, expected, atol=1e-4)
    assert weight.std() == pytest.approx(0.2, rel=0.02)


def test_whole_networks_lose_their_weights_and_keep_the_rest() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.normal(2.0, 3.0, (64, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["y"]), helper.make_node("Add", ["y", "small"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 64])],
        [helper.make_tensor_value_info("z", kind, ["n", 64])],
        [onnx.numpy_helper.from_array(large, "large"), onnx.numpy_helper.from_array(small, "small")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    compute_weights(model)
    assert len(model.SerializeToString()) < 2000
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"x": np.eye(64, dtype=np.float32)})
    assert (rows - small).mean() == pytest.approx(large.mean(), rel=0.02)
    assert (rows - small).std() == pytest.approx(large.std(), rel=0.02)
