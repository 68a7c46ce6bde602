"""Whole networks of kits, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_samples import Chain
from torch import Tensor

from methods.base import example_input
from methods.registry import create
from models.errors import UserError
from search.kit.anchors import write_network

onnx = pytest.importorskip("onnx")


class BatchOfTwo(Chain):
    """Another path for two inputs: it can be captured for one batch size alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if len(x) == 2 else 1)


class Branching(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def write(network: Chain, path: Path) -> None:
    compressor = create("l1", network.eval(), example_input((3, 8, 8)))
    write_network(compressor, np.zeros(len(compressor.sites), dtype=np.intp), path)


@pytest.mark.parametrize(("network", "batch"), [(Chain, "batch"), (BatchOfTwo, 1)])
def test_networks_are_written_for_any_batch_or_for_one_input(
    tmp_path: Path, network: type[Chain], batch: object
) -> None:
    write(network(), tmp_path / "0.onnx")
    (taken,) = onnx.load(tmp_path / "0.onnx").graph.input
    first = taken.type.tensor_type.shape.dim[0]
    assert (first.dim_param or first.dim_value) == batch


def test_networks_that_cannot_be_captured_are_named_with_what_a_kit_takes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot capture this network .*; a kit is made of ONNX files"):
        write(Branching(), tmp_path / "0.onnx")
