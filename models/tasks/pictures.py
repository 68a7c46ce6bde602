"""The classification of pictures: labelled images and a network that scores classes, judged by top-1 accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.catalog import load_data
from models.data.images import DataInfo, Images
from models.dense_network import prepare_network
from models.execution.example_inputs import example_input
from models.notices import collect_notices
from models.task_config import TaskConfig
from models.tasks.classification import CLASSIFICATION
from models.tasks.loaded import LoadedTask, Score, Split
from models.tasks.metric import ACCURACY
from models.tasks.objective import Batch
from models.tasks.parts import fingerprint_of
from models.tasks.picture_parts import may_have_seen_search_split, split_training_set, task_parts

_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 1024, 128
# Larger images have more positions to sample from, and a backward pass through 128 of 224 × 224 takes 14 GB.
_FEWEST_IMAGES, _SMALLEST_BATCH = 256, 16
_PIXELS = 128 * 64 * 64  # of a batch, where that leaves more images than the smallest batch
_BLENDED_BATCH = 500
_JUDGED_BATCH = 500
_JUDGED_ON_GPU, _PIXELS_ON_GPU = 5000, 500 * 224 * 224  # the most images, and the most pixels if that is fewer
_MIX = (0.25, 0.75)  # the share of the first image is drawn from this range: both are always there


@dataclass
class PictureTask(LoadedTask):
    """Labelled images and a network that gives a score for each class."""

    noun: ClassVar[str] = "image"

    info: DataInfo
    memory_format: torch.memory_format
    """How the network's weights and the batches of all images lie: channels last, unless the code needs otherwise."""
    tune: Images
    train: Images
    search: Images
    """The part of the training set that ranks candidates."""
    test: Images
    """Only finalists meet it."""

    @property
    def example(self) -> Tensor:
        return example_input(self.info.shape, self.device)

    def count_inputs(self, split: Split) -> int:
        return len(self._images_of(split))

    def score(self, network: nn.Module, split: Split, count: int | None = None) -> Score:
        batch_size = evaluation_batch(self.info.shape, self.device)
        images = self._images_of(split)
        accuracy, loss, judged = measure_accuracy(network, images, count=count, batch_size=batch_size)
        return Score({ACCURACY.name: accuracy}, loss, judged)

    def probes(self, count: int) -> Iterator[Batch]:
        """Blends of the search images.

        Weights usually remember the images that they are judged on here: on those every mild compression looks
        harmless, and what is measured is how much the memory suffers. A blend of two images (mixup, Zhang et al.,
        ICLR 2018) is one that no weights have seen; no label fits it.
        """
        chosen = self.search.subset(torch.arange(min(count, len(self.search))))
        return ((blend, None) for blend in blend_images(chosen))

    def calibration_batches(self) -> Iterator[Batch]:
        batch = calibration_batch(self.info.shape)
        images = _CALIBRATION_IMAGES if batch == _CALIBRATION_BATCH else _FEWEST_IMAGES
        size = min(batch, len(self.tune))
        return itertools.islice(self.tune.batches(size, seed=0, drop_last=True), -(-images // size))

    def describe_data(self) -> dict[str, Any]:
        return asdict(self.info)

    def _images_of(self, split: Split) -> Images:
        return self.test if split == "test" else self.search


def calibration_batch(shape: Sequence[int]) -> int:
    """Images of this shape, (C, H, W), that methods look at together."""
    return min(_CALIBRATION_BATCH, max(_SMALLEST_BATCH, _PIXELS // math.prod(shape[1:])))


@torch.no_grad()
def measure_accuracy(
    network: nn.Module, images: Images, *, count: int | None = None, batch_size: int = _JUDGED_BATCH
) -> tuple[float, float, int]:
    """Top-1 accuracy (0 to 1), mean cross-entropy (nats) and number of images, at full precision.

    Args:
        network: is left in evaluation mode.
        count: look at the first so many images only.
    """
    network.eval()
    if count is not None and count < len(images):
        images = images.subset(torch.arange(count))
    correct, losses = [], []  # on the device until the end: nothing waits for a batch
    for inputs, labels in images.batches(batch_size):
        logits = network(inputs)
        correct.append((logits.argmax(1) == labels).sum())
        losses.append(functional.cross_entropy(logits.float(), labels, reduction="sum"))
    hits, loss = (float(torch.stack(parts).cpu().double().sum()) for parts in (correct, losses))
    return hits / len(images), loss / len(images), len(images)


def evaluation_batch(shape: Sequence[int], device: torch.device) -> int:
    """Images of this shape, (C, H, W), that are judged together: more of small ones where a GPU would wait for work."""
    if device.type != "cuda":
        return _JUDGED_BATCH
    return max(_JUDGED_BATCH, min(_JUDGED_ON_GPU, _PIXELS_ON_GPU // math.prod(shape[1:])))


def blend_images(images: Images) -> Iterator[Tensor]:
    """Batches in which every image is mixed with another of its batch; the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    for inputs, _ in images.batches(_BLENDED_BATCH):
        n = len(inputs)
        share = torch.rand(n, generator=generator) * (_MIX[1] - _MIX[0]) + _MIX[0]
        share = share.to(inputs.device).view(-1, *[1] * (inputs.dim() - 1))
        partner = (torch.arange(n) + 1 + torch.randint(max(n - 1, 1), (1,), generator=generator)) % n
        yield share * inputs + (1 - share) * inputs[partner.to(inputs.device)]


def load_pictures(config: TaskConfig, device: torch.device) -> PictureTask:
    """Network and data, ready to judge candidates on `device`."""
    with collect_notices() as notices:
        data = load_data(config, device)
        dense = prepare_network(config, data.info, device)
        parts, seen = task_parts(config, data.info), may_have_seen_search_split(config)
    train, test = (images.in_memory_format(dense.memory_format) for images in (data.train, data.test))
    tune, search = split_training_set(config, train.labels)
    return PictureTask(
        config=config,
        network=dense.network,
        metrics=(ACCURACY,),
        objective=CLASSIFICATION,
        tune=train.subset(tune),
        train=train.subset(torch.cat([tune, search]).sort().values),
        device=device,
        fingerprint=fingerprint_of(parts),
        parts=parts,
        training_fault=dense.training_fault,
        seen=seen,
        notices=tuple(notices),
        info=data.info,
        memory_format=dense.memory_format,
        search=train.subset(search),
        test=test,
    )
