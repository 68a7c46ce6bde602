"""Stages against networks whose stages are known, and a loss written out."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from regression import Regression
from torch import Tensor, nn

from methods.base import Allocation
from methods.registry import create
from models.tasks.classification import CLASSIFICATION
from search.judge.stages import ModuleOutputs, Stage, StageLoss, find_channels, find_stages, match_stages


class Block(nn.Module):
    """Two convolutions beside a shortcut, the first of them free to be narrowed."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x + self.second(torch.relu_(self.first(x))))


def residual(inner: int = 6) -> nn.Sequential:
    """Two stages, of 8×8 and 4×4 pixels."""
    torch.manual_seed(inner)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Block(4, inner), nn.Conv2d(4, 5, 1), nn.MaxPool2d(2), Block(5, inner),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ).eval()  # fmt: skip


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 3, 8, 8, generator=generator), torch.arange(7) % 3


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def test_the_last_of_every_size(batch: tuple[Tensor, Tensor]) -> None:
    stages = match_stages(residual(), residual(2), CLASSIFICATION, batch)
    assert names(stages) == ["2", "4", "5"]
    assert all(stage.channels is None for stage in stages)


def test_inner_layers_that_were_narrowed_are_no_stages() -> None:
    """In a bottleneck that shrinks the maps, its first, narrowed layer is the last one of the size before."""
    dense = {
        "block": torch.Size([2, 64, 8, 8]),
        "next.reduce": torch.Size([2, 32, 8, 8]),
        "next": torch.Size([2, 99, 4, 4]),
    }
    narrow = dense | {"next.reduce": torch.Size([2, 16, 8, 8])}
    assert find_stages(dense, dense, 2) == ("next.reduce", "next")
    assert find_stages(dense, narrow, 2) == ("block", "next")
    assert find_stages(dense, narrow | {"block": torch.Size([2, 60, 8, 8])}, 2) == ("next.reduce", "next")


@pytest.mark.parametrize(
    ("dense", "narrow"),
    [((2, 8), (2, 8)), ((2, 8, 4, 4), (2, 8, 5, 5)), ((2, 8, 4, 4), (2, 9, 4, 4)), ((14, 8, 4, 4), (14, 8, 4, 4)),
     ((2, 8, 4, 4), (1, 8, 4, 4)), ((2, 7, 8), (2, 7, 6))],
    ids=["no map", "another size", "wider", "regions, not inputs", "another batch", "tokens, narrowed"],
)  # fmt: skip
def test_what_cannot_be_compared(dense: tuple[int, ...], narrow: tuple[int, ...]) -> None:
    assert find_stages({"a": torch.Size(dense)}, {"a": torch.Size(narrow)}, 2) == ()


def test_tokens_are_compared_whole() -> None:
    shapes = {name: torch.Size([2, 7, 8]) for name in ("first", "second")}
    assert find_stages(shapes, shapes, 2) == ("second",)


@pytest.mark.parametrize("seed", range(5))
def test_channels_are_recognised_by_what_they_compute(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(6, 12, 5, 5, generator=generator)
    kept = torch.randperm(12, generator=generator)[:7]
    scale, shift = torch.rand(7, 1, 1, generator=generator) + 0.5, 20 * torch.randn(7, 1, 1, generator=generator)
    damaged = dense[:, kept] * scale + shift + 0.5 * torch.randn(6, 7, 5, 5, generator=generator)
    assert torch.equal(find_channels(damaged, dense), kept)


def test_dead_channels_take_what_is_left() -> None:
    dense = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    damaged = dense[:, [0, 1, 2]].clone()
    damaged[:, 1] = 0
    channels = find_channels(damaged, dense).tolist()
    assert channels[0] == 0
    assert channels[2] == 2
    assert channels[1] in (1, 3)


def test_no_features_where_all_outputs_are_numbers(batch: tuple[Tensor, Tensor]) -> None:
    assert match_stages(residual(), residual(), CLASSIFICATION, batch)
    assert match_stages(residual(), residual(), Regression(), batch) == ()


def test_channels_that_pruning_kept(batch: tuple[Tensor, Tensor]) -> None:
    """Of the stream itself: the filters that the method removed are missing, by its own order of removal."""
    dense = residual()
    pruner = create("l1", dense, batch[0])
    stream = next(site for site in pruner.sites if site.name == "0")
    network = pruner.compress(Allocation({"0": stream.settings[2]}))
    weights = [network[0].weight[i] for i in range(len(network[0].weight))]  # type: ignore[index, arg-type]
    expected = [next(j for j in range(4) if torch.equal(dense[0].weight[j], w)) for w in weights]  # type: ignore[index, arg-type]
    assert 0 < len(expected) < 4
    stages = match_stages(dense, network, CLASSIFICATION, batch)
    assert names(stages) == ["2", "4", "5"]  # behind the stream's last layer all channels are left
    with torch.no_grad():
        assert find_channels(network[0](batch[0]), dense[0](batch[0])).tolist() == expected


def test_networks_are_left_as_they_are(batch: tuple[Tensor, Tensor]) -> None:
    dense, network = residual(), residual(2)
    before = copy.deepcopy(network.state_dict())
    stages = match_stages(dense, network, CLASSIFICATION, batch)
    with StageLoss(dense, network, stages):
        pass
    assert not any(module._forward_hooks for model in (dense, network) for module in model.modules())
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("channels", [None, [2, 0, 4]])
def test_loss_written_out(channels: list[int] | None, batch: tuple[Tensor, Tensor]) -> None:
    """Mean of the stages' s · log(1 + e), e the mean squared error over the variance of the dense features."""
    dense, network = residual(), residual(2)
    if channels is not None:
        network[4] = nn.Conv2d(5, 3, 1)
        network[7] = nn.Linear(3, 3)
    kept = None if channels is None else torch.tensor(channels)
    with StageLoss(dense, network, (Stage("1"), Stage("4", kept))) as loss:
        dense(batch[0])
        network(batch[0])
        measured = loss()
        assert loss() is None  # of the passes since, and there were none
    assert measured is not None
    expected = 0.0
    for depth, index in ((2, None), (5, channels)):
        a, b = dense[:depth](batch[0]).detach().numpy(), network[:depth](batch[0]).detach().numpy()
        a = a if index is None else a[:, index]
        expected += a.shape[1] / dense[:depth](batch[0]).shape[1] * math.log(1 + ((a - b) ** 2).mean() / a.var()) / 2
    assert measured.item() == pytest.approx(expected, rel=1e-5)
    measured.backward()
    assert network[0].weight.grad is not None  # type: ignore[union-attr]


def test_a_stage_that_is_computed_twice_is_left_out(batch: tuple[Tensor, Tensor]) -> None:
    """A loss that runs the network on other inputs too leaves open which pass belongs to the dense network's."""
    dense, network = residual(), residual(2)
    with StageLoss(dense, network, (Stage("4"),)) as loss:
        for model in (dense, network, network):
            model(batch[0])
        assert loss() is None
        dense(batch[0])
        network(batch[0][:, :, :4])  # another size
        assert loss() is None


def test_outputs_that_are_no_tensors() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x, x

    network = nn.Sequential(Pair())
    with ModuleOutputs(network, None, lambda output: output.shape) as outputs:
        network(torch.zeros(2, 3, 4, 4))
    assert outputs.take() == {}
