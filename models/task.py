"""The contract of a task: what is compressed, and what it is trained and judged by.

    class Depth(Task):
        metrics = ("MAE, m, lower is better",)      # the first one ranks; name, unit, direction

        def __init__(self):
            self.network = DepthNet.load("depth.pt")
            self.example = torch.zeros(2, 3, 96, 96)    # or a tuple of arguments, or a dictionary of keyword arguments

        def training_batches(self, epoch, seed):
            return self.loader                          # its shuffling follows torch's seed, which is set

        def loss(self, network, batch):
            return (network(batch["image"]) - batch["depth"]).abs().mean()

        def score(self, network, split):                # split: "search" or "test"
            return {"MAE": mean_error(network, self.held_out[split])}

A function that returns one is named on the command line, `--task path/to/file.py:build`; in Python a task is given to
`api.search(task=...)`. Where there are data loaders already, `Task.from_loaders` makes a task of them.

Batches may be anything; tensors in them are moved to the device that networks run on. Everything else in this program
knows a task by what `models.tasks.loaded` asks of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.tasks.batches import MovedBatches, first_batches, is_used_up, loader_size
from models.tasks.loaded import Split
from models.tasks.metric import Metric
from models.tasks.objective import Batch
from models.tasks.outputs import Logits as Logits


class Task(ABC):
    """What a user gives to have a network compressed for a purpose of their own."""

    network: nn.Module
    """Dense and trained."""
    example: Any
    """Two inputs or more: a tensor, a list of images, a tuple of positional or a dictionary of keyword arguments."""
    metrics: Sequence[str | Metric] | str
    """What `score` measures, the ranking one first: `mIoU`, `PSNR, dB`, `MAE, mm, lower is better`."""
    seen: bool = False
    """Whether the network may have been trained on the search split: drift from its outputs then ranks."""
    device: torch.device = torch.device("cpu")
    """Where networks and batches are; set before anything is called."""
    sizes: Mapping[str, int] = {}
    """How many inputs the splits have, to be shown."""
    identity: str = ""
    """Anything that tells this task's data from others', such as a version: outcomes of the same are not paid twice."""

    @abstractmethod
    def training_batches(self, epoch: int, seed: int) -> Iterable[Batch]:
        """The batches of one epoch, the same ones for the same epoch and seed.

        The random numbers of torch, NumPy and Python are seeded with both, and are nobody else's while it is iterated.
        """

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """A scalar to be minimised; `network` is in training mode."""

    @abstractmethod
    def score(self, network: nn.Module, split: Split) -> Mapping[str, float]:
        """Every metric, by name, on the held-out `search` split or on the `test` set; `network` is in evaluation mode.

        The search split is what candidates are ranked by; the test set meets only those that were chosen. A third
        parameter `count`, where a task has one, asks for the first so many inputs alone: scans of the sensitivity of
        layers take a part of the split.
        """

    def outputs(self, network: nn.Module, batch: Batch) -> Any:
        """What a compressed network should have in common with the dense one, for distillation and drift.

        Tensors, in lists, tuples or dictionaries; `Logits(tensor, dim)` are compared as distributions, others by their
        squared error. The dense network is in evaluation mode, the one that is trained in training mode.
        Left as it is, nothing is distilled, and candidates rank by the metric alone.
        """
        raise NotImplementedError

    @staticmethod
    def from_loaders(
        network: nn.Module,
        train: Iterable[Batch],
        search: Iterable[Batch],
        test: Iterable[Batch],
        *,
        loss: Callable[[nn.Module, Batch], Tensor],
        score: Callable[[nn.Module, Iterable[Batch]], Mapping[str, float]],
        metrics: Sequence[str | Metric] | str,
        example: Any,
        outputs: Callable[[nn.Module, Batch], Any] | None = None,
        seen: bool = False,
        identity: str = "",
    ) -> Task:
        """A task of data loaders that are there already.

        Args:
            train: shuffles by torch's random numbers, as a `DataLoader` does.
            search: held out from the training; candidates are ranked on it.
            score: measures a network on one of the loaders.
        """
        return LoaderTask(network, train, search, test, loss, score, metrics, example, outputs, seen, identity)


class LoaderTask(Task):
    """Of data loaders; made by `Task.from_loaders`."""

    def __init__(
        self,
        network: nn.Module,
        train: Iterable[Batch],
        search: Iterable[Batch],
        test: Iterable[Batch],
        loss: Callable[[nn.Module, Batch], Tensor],
        score: Callable[[nn.Module, Iterable[Batch]], Mapping[str, float]],
        metrics: Sequence[str | Metric] | str,
        example: Any,
        outputs: Callable[[nn.Module, Batch], Any] | None,
        seen: bool,
        identity: str,
    ) -> None:
        self.network, self.example, self.seen, self.identity = network, example, seen, identity
        self.metrics = metrics
        self.train, self.held_out = train, {"search": search, "test": test}
        for split, loader in self.held_out.items():
            if is_used_up(loader):
                raise UserError(f"the {split} loader is used up after one pass; give a list or a DataLoader")
        sizes = {split: loader_size(loader) for split, loader in self.held_out.items()}
        self.sizes = {split: size for split, size in sizes.items() if size is not None}
        self._loss, self._score = loss, score
        if outputs is not None:
            self.outputs = outputs  # type: ignore[assignment, method-assign]

    def training_batches(self, epoch: int, seed: int) -> Iterable[Batch]:
        sampler: Any = getattr(self.train, "sampler", None)
        generator = getattr(self.train, "generator", None)
        if generator is not None:
            generator.manual_seed(int(torch.randint(2**31, ())))
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        return self.train

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return self._loss(network, batch)

    def score(self, network: nn.Module, split: Split, count: int | None = None) -> Mapping[str, float]:
        batches = MovedBatches(self.held_out[split], self.device)
        return self._score(network, batches if count is None else list(first_batches(batches, count)))
