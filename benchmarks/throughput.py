"""Fine-tuning against the loop that research scripts use: images per second, on the same device, in the same run.

    python benchmarks/throughput.py [--networks resnet20,resnet56,vgg16-cifar] [--batch-size 128] [--steps 200] [--json]

The plain loop decodes nothing (CIFAR's usual pickled arrays are in memory) but does what such scripts do: PIL images,
torchvision's RandomCrop, flip, ToTensor and Normalize in DataLoader workers, float32, `loss.item()` at every step. All
distil from a dense network of the same size; ours follow its features as well. `plain step` is our step operator by
operator, `recorded` the same as a CUDA graph, blank without a GPU. `the device could` is what its arithmetic (a large
matrix product in the precision of fine-tuning) and its memory (a large copy) allow for the operations and bytes of our
step, counted operator by operator, without augmentation and features. Images are random: what they show does not cost
time.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chip import Traffic, Work, most_steps, wait_for
from benchmarks.task_options import markdown_table
from methods.base import Tuning, example_input
from models.data.array_images import ArrayImages
from models.data.named_sets import NAMED_SETS
from models.devices import pick_device
from models.networks.catalog import build_network
from models.tasks.classification import CLASSIFICATION
from search.export.formats import count_flops
from search.judge.finetune import finetune
from search.judge.stages import StageLoss
from search.judge.training_step import Losses, make_step
from search.machine.host import count_cores, host_facts
from search.recipe import Recipe

INFO = NAMED_SETS["cifar10"]
IMAGES = 10_000
WARM_UP = 20  # steps that no rate counts


class PlainImages(Dataset[tuple[Tensor, int]]):
    """What research scripts read CIFAR-10 with."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._pixels, self._labels = pixels, labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self._transform = transforms.Compose([*steps, transforms.Normalize(INFO.mean, INFO.std)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), int(self._labels[index])


def plain_rate(
    network: nn.Module, teacher: nn.Module, pixels: np.ndarray, labels: np.ndarray, recipe: Recipe, steps: int,
    device: torch.device,
) -> float:  # fmt: skip
    """Images per second of the plain loop."""
    loader = DataLoader(PlainImages(pixels, labels), recipe.batch_size, shuffle=True, num_workers=min(count_cores(), 8),
                        pin_memory=device.type == "cuda", drop_last=True, persistent_workers=True)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    network.train()
    batches, start = _endless(loader), 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start = time.perf_counter()
        inputs, targets = (each.to(device, non_blocking=True) for each in next(batches))
        logits = network(inputs)
        with torch.no_grad():
            wanted = (teacher(inputs) / recipe.temperature).log_softmax(1)
        soft = (logits / recipe.temperature).log_softmax(1)
        divergence = functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        weight = recipe.distill_weight
        loss = (1 - weight) * functional.cross_entropy(logits, targets) + weight * recipe.temperature**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return steps * recipe.batch_size / (time.perf_counter() - start)


def _endless(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


def our_rate(
    network: nn.Module,
    teacher: nn.Module,
    images: ArrayImages,
    recipe: Recipe,
    steps: int,
    tuning: Tuning | None = None,
) -> float:
    """Images per second of `search.judge.finetune`."""
    epochs, device = (WARM_UP + steps) / images.epoch_steps(recipe.batch_size), next(network.parameters()).device
    marks: dict[int, float] = {}

    def note(done: int, _: int) -> None:
        if done in (WARM_UP, WARM_UP + steps):
            wait_for(device)
            marks[done] = time.perf_counter()

    whole = recipe.model_copy(update={"epochs": epochs})
    finetune(
        network, CLASSIFICATION, images, whole, seed=0, device=device, teacher=teacher, tuning=tuning, on_step=note
    )
    return steps * recipe.batch_size / (marks[WARM_UP + steps] - marks[WARM_UP])


class Unrecorded(Tuning):
    """Keeps a GPU from recording steps."""

    @property
    def has_hook(self) -> bool:
        return True


def work_of_step(network: nn.Module, teacher: nn.Module, images: ArrayImages, recipe: Recipe, macs: int) -> Work:
    """Of one of our steps."""
    device = next(network.parameters()).device
    losses = Losses(CLASSIFICATION, recipe, teacher, StageLoss(teacher, network, ()))
    step = make_step(network.train(), losses, Unrecorded(), device)
    batch = next(images.training_batches(recipe.batch_size, seed=0))
    step(batch, 0, 0.0)
    with Traffic() as traffic:
        step(batch, 1, 0.0)
    operations = 2 * macs * (3 + 1) * recipe.batch_size  # forward, and backward twice that; the teacher's forward
    return Work(operations, traffic.bytes)


def main() -> None:
    """A row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet20,resnet56,vgg16-cifar")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    device = pick_device(None)
    rows = [network_row(name, arguments.batch_size, arguments.steps, device) for name in arguments.networks.split(",")]
    facts = host_facts(device)
    if arguments.json:
        print(json.dumps({"rows": rows, **facts}))
        return
    print("; ".join(f"{key} {value}" for key, value in facts.items()))
    print(markdown_table(pd.DataFrame(rows)))


def network_row(name: str, batch_size: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Images per second of each way to train a network."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES)
    network, recipe = build_network(name, classes=10).to(device), Recipe(batch_size=batch_size)
    macs = count_flops(network.eval(), example_input(INFO.shape, device))
    images = ArrayImages.on_device(torch.from_numpy(pixels), torch.from_numpy(labels), INFO, device)
    teacher = copy.deepcopy(network).eval()
    loop = plain_rate(copy.deepcopy(network), teacher, pixels, labels, recipe, steps, device)
    plain = our_rate(copy.deepcopy(network), teacher, images, recipe, steps, Unrecorded())
    recorded = our_rate(copy.deepcopy(network), teacher, images, recipe, steps) if device.type == "cuda" else None
    most = batch_size * most_steps(work_of_step(network, teacher, images, recipe, macs), device)
    best = recorded or plain
    return {
        "network": name,
        "plain loop, images/s": round(loop),
        "plain step": round(plain),
        "recorded": "" if recorded is None else round(recorded),
        "best / loop": round(best / loop, 2),
        "the device could": round(most),
        "of that": round(best / most, 3),
    }


if __name__ == "__main__":
    main()
