"""A network with PixelShuffle that doubles the resolution of photographs, judged by PSNR or by its mean error.

    python examples/super_resolution.py
    python run_search.py search --task examples/super_resolution.py:build --target-flops 0.5 --lr 0.05

About half a minute on two idle cores. `build` ranks candidates by PSNR, where higher is better; `build_by_error` ranks
the same network by its mean absolute error, where lower is better.
"""

from collections.abc import Iterable

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from trained_network import train_once

from models.task import Task
from search import api

SIZE = 32  # of the patches of full resolution
Batch = list[Tensor]  # (n, 3, 32, 32) patches


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.layers = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class SuperResolution(nn.Module):
    """Works at the low resolution; what it adds to the enlarged picture is made of four channels a colour."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(3)))
        self.enlarge = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(channels, 3, 3, padding=1)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        enlarged = functional.interpolate(pictures, scale_factor=2.0, mode="bilinear")
        return enlarged + self.enlarge(self.blocks(self.enter(pictures)))


def restore(network: nn.Module, patches: Tensor) -> Tensor:
    return network(functional.avg_pool2d(patches, 2))


def restoration_loss(network: nn.Module, batch: Batch) -> Tensor:
    return functional.l1_loss(restore(network, batch[0]), batch[0])


def score_restoration(network: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Over all pixels of all patches; the brightest value is 1."""
    errors = torch.cat([(restore(network, patches).clamp(0, 1) - patches).flatten() for (patches,) in batches])
    return {"PSNR": float(-10 * errors.square().mean().log10()), "MAE": float(255 * errors.abs().mean())}


def cut_patches(split: str) -> TensorDataset:
    """Half of scikit-learn's two photographs in patches is trained on, a quarter searched with, a quarter tests."""
    photographs = torch.tensor(np.stack(load_sample_images().images), dtype=torch.float32).permute(0, 3, 1, 2) / 255
    patches = photographs.unfold(2, SIZE, SIZE).unfold(3, SIZE, SIZE)  # (2, 3, 13, 20, 32, 32)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    remainder = torch.arange(len(patches)) % 4
    return TensorDataset(patches[{"search": remainder == 0, "test": remainder == 1}.get(split, remainder > 1)])


def build() -> Task:
    """Ranks by PSNR, and tells the mean error."""
    return build_ranked_by("PSNR, dB", "MAE, grey levels, lower is better")


def build_by_error() -> Task:
    """Ranks by the mean error, and tells the PSNR."""
    return build_ranked_by("MAE, grey levels, lower is better", "PSNR, dB")


def build_ranked_by(*metrics: str) -> Task:
    torch.manual_seed(0)
    train = DataLoader(cut_patches("train"), 16, shuffle=True)
    return Task.from_loaders(
        train_once(SuperResolution(), train, restoration_loss, file=__file__, epochs=60, lr=4e-3),
        train,
        search=DataLoader(cut_patches("search"), 65),
        test=DataLoader(cut_patches("test"), 65),
        loss=restoration_loss,
        score=score_restoration,
        metrics=metrics,
        outputs=lambda network, batch: restore(network, batch[0]),
        example=torch.zeros(2, 3, SIZE // 2, SIZE // 2),
    )


def main() -> None:
    """The cells, one after another."""
    for build_task in (build, build_by_error):
        result = api.compare(
            task=build_task(), methods="l1", strategies=["acra-uniform", "lagrangian"], targets=0.25, lr=0.05, seeds=2,
            workers=0,
        )  # fmt: skip
        # %% Columns are called after the metric that ranks; the first is the best, whichever way is better
        board, metric = result.leaderboard, result.metric.name
        print(board[["rank", "strategy", f"dense_{metric}", metric, "std", f"delta_{metric}"]].to_string(index=False))


if __name__ == "__main__":
    main()
