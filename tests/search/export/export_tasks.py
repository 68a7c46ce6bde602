"""Tasks of every form of input and output, trained by nothing: what is exported is what is compared."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.task import Task


class _Trunk(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )


class TwoInputs(nn.Module):
    """A picture and a vector by name; a dictionary with an entry that is None, as Hugging Face's models give it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.vector, self.head = _Trunk(3), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, pixel_values: Tensor, *, extra: Tensor) -> OrderedDict[str, Tensor | None]:
        features = self.trunk(pixel_values).mean((2, 3)) * self.vector(extra)
        return OrderedDict(logits=self.head(features), hidden=None)


@dataclass
class Maps:
    boxes: Tensor
    classes: Tensor


class Detector(nn.Module):
    """An object of maps, which no file format knows."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.boxes, self.classes = _Trunk(3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Maps:
        features = self.trunk(images)
        return Maps(self.boxes(features), self.classes(features).argmax(1))


class OneAtATime(nn.Module):
    """Its code holds the number of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = _Trunk(3), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images).mean((2, 3))
        return self.head(features.view(int(features.shape[0]), 8))


class Lists(nn.Module):
    """Images of any size in a list, results in a list; in training it takes targets and returns losses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = _Trunk(3), nn.Linear(8, 5)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        scores = [self.head(self.trunk(image[None]).mean((2, 3)))[0] for image in images]
        if not self.training:
            return [{"scores": score.softmax(0), "label": score.argmax()} for score in scores]
        assert targets is not None
        labels = torch.stack([target["label"] for target in targets])
        return {"loss": F.cross_entropy(torch.stack(scores), labels)}


class ExportedTask(Task):
    """Random inputs; the score is how far outputs are from zero."""

    metrics = ("distance, m, lower is better",)

    def __init__(self, network: nn.Module, example: Any) -> None:
        torch.manual_seed(0)
        self.network, self.example = network, example
        self.test = example

    def training_batches(self, epoch: int, seed: int) -> Iterable[Any]:
        return [self.example] * 2

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        return sum(tensor.square().mean() for tensor in self._floats(network, batch))  # type: ignore[return-value]

    def score(self, network: nn.Module, split: str) -> dict[str, float]:
        return {"distance": sum(float(tensor.abs().mean()) for tensor in self._floats(network, self.test))}

    def _floats(self, network: nn.Module, batch: Any) -> Iterator[Tensor]:
        outputs = network(**batch) if isinstance(batch, dict) else network(batch)
        values = vars(outputs).values() if isinstance(outputs, Maps) else outputs
        values = outputs.values() if isinstance(outputs, dict) else values
        tensors = [outputs] if isinstance(outputs, Tensor) else values
        return (tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point())


class ListTask(ExportedTask):
    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = network(batch, [{"label": torch.tensor(1)} for _ in batch])["loss"]
        return loss

    def score(self, network: nn.Module, split: str) -> dict[str, float]:
        return {"distance": sum(float(result["scores"].max()) for result in network(self.test))}


def _images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def two_inputs() -> Task:
    torch.manual_seed(0)
    return ExportedTask(TwoInputs(), {"pixel_values": _images(), "extra": torch.randn(4, 4)})


def detector() -> Task:
    torch.manual_seed(0)
    return ExportedTask(Detector(), _images())


def one_at_a_time() -> Task:
    torch.manual_seed(0)
    return ExportedTask(OneAtATime(), _images())


def lists() -> Task:
    torch.manual_seed(0)
    return ListTask(Lists(), list(_images(3)))


class ByName(ExportedTask):
    """Its example is given by position, its scores call by name."""

    def score(self, network: nn.Module, split: str) -> dict[str, float]:
        return {"distance": float(network(images=self.test).boxes.abs().mean())}


def called_by_name() -> Task:
    torch.manual_seed(0)
    return ByName(Detector(), _images())


def of_much_data() -> Task:
    torch.manual_seed(0)
    return ExportedTask(Detector(), _images(2000)[:2])
