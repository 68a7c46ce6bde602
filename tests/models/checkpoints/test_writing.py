"""Weights of networks whose state dict holds more than tensors, written in both forms and read again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.checkpoints.loading import load_weights, read_metadata
from models.checkpoints.writing import weights_encoder


class _Counting(nn.Linear):
    """Keeps a number beside its tensors, as modules may by PyTorch's `get_extra_state`."""

    steps = 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_extra_state_does_not_lose_the_weights(tmp_path: Path, name: str) -> None:
    network, path = _Counting(3, 2), tmp_path / name
    path.write_bytes(weights_encoder(path)(network, {"data": "digits"}))
    twin = _Counting(3, 2)
    load_weights(twin, path)
    assert torch.equal(twin.weight, network.weight)
    assert torch.equal(twin.bias, network.bias)
    assert read_metadata(path) == {"data": "digits"}


def test_a_torch_file_keeps_extra_state(tmp_path: Path) -> None:
    network, path = _Counting(3, 2), tmp_path / "w.pt"
    network.steps = 7
    path.write_bytes(weights_encoder(path)(network, {}))
    twin = _Counting(3, 2)
    twin.load_state_dict(torch.load(path))
    assert twin.steps == 7
    assert torch.equal(twin.weight, network.weight)


def test_two_sets_of_weights_with_extra_state(tmp_path: Path) -> None:
    network = _Counting(3, 2)
    torch.save({"model": network.state_dict(), "net": network.state_dict()}, tmp_path / "w.pth")
    twin = _Counting(3, 2)
    load_weights(twin, tmp_path / "w.pth")
    assert torch.equal(twin.weight, network.weight)
