"""Detectors: lists of images, losses in training, boxes that scores sort and suppress, regions that are looked at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection
from torchvision.ops import nms

from methods.base import Allocation, Compressor
from methods.graph.channel_sites import ChannelGroups
from methods.registry import create
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Inputs
from models.task import Task
from models.task_config import TaskConfig
from models.tasks.build import GIVEN_TASKS
from models.tasks.load import load_task

SIZE = 96


class TiedScores(nn.Module):
    """Many boxes with the same score, of which rounding says which come first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.scores, self.boxes = nn.Conv2d(24, 1, 1), nn.Conv2d(24, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.wide(self.stem(images).relu()).relu()
        # A mean that is the same for all places, but summed in another order for each.
        scores = (self.scores(features).mean() + torch.zeros(64)) * torch.linspace(1, 3, 64).roll(7) / 3
        scores = scores + self.scores(features).flatten()[:64] - self.scores(features).flatten()[:64]
        boxes = self.boxes(features).flatten(2)[0].t()[:64].abs()
        best = scores.sort(descending=True).indices[:8]
        return scores[best], boxes[best]


class Regions(nn.Module):
    """Two stages: boxes that survive suppression are looked at again, however many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.scores, self.boxes = nn.Conv2d(24, 1, 1), nn.Conv2d(24, 4, 1)
        self.hidden, self.classes = nn.Linear(24, 32), nn.Linear(32, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.wide(self.stem(images).relu()).relu()
        scores = self.scores(features).flatten(1).sigmoid()[0]
        corners = self.boxes(features).flatten(2)[0].t()
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:].abs() + 0.1], 1)
        kept = nms(boxes, scores, 0.3)
        regions = features.flatten(2)[0].t()[kept]
        return boxes[kept], self.classes(self.hidden(regions).relu().view(len(kept), 32))


@pytest.mark.parametrize("network", [TiedScores, Regions])
def test_layers_before_a_choice_are_sites(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    groups = ChannelGroups(network().eval(), torch.randn(2, 3, 8, 8))
    assert {"stem", "wide"} <= {site.name for site in groups.sites}


def test_layers_behind_a_choice_are_sites_and_counted_for_as_many_regions() -> None:
    torch.manual_seed(0)
    network = Regions().eval()
    images = torch.randn(2, 3, 8, 8)
    compressor = create("l1", network, images)
    assert {site.name for site in compressor.sites} == {"stem", "wide", "hidden"}
    regions = len(network(images[:1])[0])
    small = compressor.compress(compressor.allocation([len(site.settings) // 2 for site in compressor.sites]))
    places, hidden = 64, small.hidden.out_features
    convolutions = 9 * (3 * small.stem.out_channels + small.stem.out_channels * small.wide.out_channels)
    wanted = places * (convolutions + 5 * small.wide.out_channels) + regions * hidden * (small.wide.out_channels + 5)
    levels = [len(site.settings) // 2 for site in compressor.sites]
    assert compressor.cost_of(compressor.allocation(levels)).flops == wanted
    assert len(small(images[:1])[0]) != regions, "the compressed network has other scores"


class TorchvisionTask(Task):
    """A detector of torchvision's with random weights; its score counts what it finds."""

    metrics = ("boxes",)

    def __init__(self, build: str, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.network = getattr(detection, build)(weights=None, weights_backbone=None, num_classes=5, **options)
        self.example = [torch.rand(3, SIZE, SIZE), torch.rand(3, SIZE, SIZE)]

    def training_batches(self, epoch: int, seed: int) -> Iterable[Any]:
        boxes = torch.tensor([[10.0, 10, 60, 60], [20, 30, 90, 95]])
        yield [torch.rand(3, SIZE, SIZE) for _ in range(2)], [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * 2

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        losses: list[Tensor] = list(network(*batch).values())
        return torch.stack(losses).sum()

    def score(self, network: nn.Module, split: str) -> dict[str, float]:
        return {"boxes": float(sum(len(found["boxes"]) for found in network([torch.rand(3, SIZE, SIZE)])))}


def halve_cost(compressor: Compressor) -> Allocation:
    """Every site by the smallest share of its settings that keeps at most half of the FLOPs."""
    shares = (share / 200 for share in range(201))
    allocations = (
        compressor.allocation([round(share * (len(site.settings) - 1)) for site in compressor.sites])
        for share in shares
    )
    half = compressor.cost.dense.flops / 2
    return next(allocation for allocation in allocations if compressor.cost_of(allocation).flops <= half)


def count_flops(network: nn.Module, image: list[Tensor]) -> tuple[int, int]:
    """Multiply-accumulates for an image by torch's counter, and the regions that a second stage looks at."""
    regions = [0]
    heads = [network.roi_heads.box_head] if hasattr(network, "roi_heads") else []
    hooks = [(head, lambda _module, _inputs, output: regions.append(len(output))) for head in heads]
    with forward_hooks(after=hooks), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() // 2, regions[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "options", "sites"),
    [
        ("ssdlite320_mobilenet_v3_large", {}, 35),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"min_size": SIZE, "max_size": SIZE}, 30),
    ],
)
def test_a_detector_of_torchvision_is_compressed_to_half_and_trained(
    build: str, options: dict[str, Any], sites: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "object:detector"
    monkeypatch.setitem(GIVEN_TASKS, spec, TorchvisionTask(build, options))
    task = load_task(TaskConfig(task=spec, network=spec, data="own"), "cpu")
    assert Inputs.of(task.example).listed
    assert Inputs.of(task.example).training is not None, "training takes targets as well"
    compressor = create("l1", task.network, task.example)
    assert len(compressor.sites) >= sites
    allocation = halve_cost(compressor)
    cost = compressor.cost_of(allocation)
    assert 0.45 <= cost.flops / compressor.cost.dense.flops <= 0.5
    small = compressor.compress(allocation)
    image = Inputs.of(task.example).first().args[0]
    (counted, regions), (_, dense_regions) = (count_flops(network, image) for network in (small.eval(), task.network))
    heads = small.roi_heads.modules() if hasattr(small, "roi_heads") else ()
    region_flops = sum(layer.weight.numel() for layer in heads if isinstance(layer, nn.Linear))
    assert counted - (regions - dense_regions) * region_flops == cost.flops
    batch = next(iter(task.tune.training_batches(1, seed=0)))
    loss = task.objective.loss(small.train(), batch)
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in small.named_parameters() if "0.0.weight" in name)
