"""Weights that are not numbers are said to be just that, before anything else is tried."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import UserError
from models.execution.finite_weights import check_finite
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from models.tasks.load import load_network


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
@pytest.mark.parametrize("entry", ["layer1.0.conv1.weight", "layer2.0.bn1.running_var"])
def test_a_checkpoint_of_a_diverged_training_is_refused(tmp_path: Path, value: float, word: str, entry: str) -> None:
    state = build_network("resnet20", classes=10).state_dict()
    state[entry].view(-1)[1] = value
    torch.save(state, tmp_path / "diverged.pt")
    with pytest.raises(UserError) as refusal:
        load_network(TaskConfig(network="resnet20", weights=str(tmp_path / "diverged.pt"), data="cifar10"))
    sentence = str(refusal.value)
    assert entry in sentence
    assert word in sentence
    assert f"1 of its {state[entry].numel():,} values" in sentence


def test_masks_of_infinity_and_lazy_layers_pass() -> None:
    network = nn.Sequential(nn.LazyConv2d(3, 3), nn.Flatten())
    network.register_buffer("mask", torch.full((3, 3), float("-inf")))
    network.register_buffer("count", torch.zeros((), dtype=torch.long))
    check_finite(network, "masked")
