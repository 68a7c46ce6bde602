"""A small task of a user's own that is judged by an error: pictures are freed of noise by three convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from models.task import Task

METRICS = ("MAE, mm, lower is better", "PSNR, dB")


class Denoiser(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, noisy: Tensor) -> Tensor:
        features = torch.relu(self.first_norm(self.first(noisy)))
        return self.last(torch.relu(self.second_norm(self.second(features))))


def noisy_images(count: int, seed: int) -> TensorDataset:
    """Noisy images beside the clean ones: a bright square on a dark ground."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.zeros(count, 1, 8, 8)
    for image, (row, column) in zip(clean, torch.randint(0, 4, (count, 2), generator=generator).tolist(), strict=True):
        image[0, row : row + 4, column : column + 4] = 1.0
    return TensorDataset(clean + 0.3 * torch.randn(clean.shape, generator=generator), clean)


def loss(network: nn.Module, batch: list[Tensor]) -> Tensor:
    return (network(batch[0]) - batch[1]).abs().mean()


def score(network: nn.Module, batches: Iterable[list[Tensor]]) -> Mapping[str, float]:
    absolute = squared = count = 0.0
    for noisy, clean in batches:
        error = network(noisy) - clean
        absolute, squared = absolute + float(error.abs().sum()), squared + float(error.square().sum())
        count += error.numel()
    return {"MAE": absolute / count, "PSNR": 10 * float(torch.log10(torch.tensor(count / squared)))}


def trained_network(train: DataLoader[Any], epochs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    network = Denoiser()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(epochs):
        for batch in train:
            optimizer.zero_grad()
            loss(network, batch).backward()
            optimizer.step()
    return network.eval()


def build(**changes: Any) -> Task:
    """The task of its loaders; `changes` replaces arguments of `Task.from_loaders`."""
    train = DataLoader(noisy_images(64, 0), batch_size=16, shuffle=True)
    parts: dict[str, Any] = {
        "network": trained_network(train) if "network" not in changes else None,
        "train": train,
        "search": DataLoader(noisy_images(32, 1), batch_size=16),
        "test": DataLoader(noisy_images(48, 2), batch_size=16),
        "loss": loss,
        "score": score,
        "metrics": METRICS,
        "example": torch.zeros(2, 1, 8, 8),
    }
    return Task.from_loaders(**(parts | changes))


def build_with_outputs() -> Task:
    return build(outputs=lambda network, batch: {"clean": network(batch[0])})
