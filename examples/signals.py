"""Convolutions of one dimension and of three: waveforms in noise are named, and digits that move are timed.

    python examples/signals.py
    python run_search.py search --task examples/signals.py:build_waveforms --target-flops 0.5 --lr 0.05
    python run_search.py search --task examples/signals.py:build_clips --target-flops 0.5

Under a minute on two idle cores.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from trained_network import train_once

from models.task import Logits, Task
from search import api

SEEDS = {"train": 0, "search": 1, "test": 2}
SHAPES = ("sine", "square", "sawtooth", "triangle", "chirp")
LENGTH = 128  # of a signal
FRAMES, SIDE = 6, 20  # of a clip
DIGITS = {"train": slice(0, 1100), "search": slice(1100, 1450), "test": slice(1450, 1797)}  # of the 1,797 digits
Batch = list[Tensor]  # inputs, and what is to be told of them


class WaveNet(nn.Sequential):
    """Three convolutions along time, and the mean over it."""

    def __init__(self, width: int = 24) -> None:
        widths, layers = (1, width, 2 * width, 2 * width), list[nn.Module]()
        for before, after in pairwise(widths):
            layers += [nn.Conv1d(before, after, 7, stride=2, padding=3), nn.BatchNorm1d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(widths[-1], len(SHAPES)))


class ClipNet(nn.Sequential):
    """Three convolutions over time, rows and columns, and a linear layer that tells the speed."""

    def __init__(self, width: int = 12) -> None:
        widths, layers = (1, width, 2 * width, 2 * width), list[nn.Module]()
        for before, after in pairwise(widths):
            layers += [nn.Conv3d(before, after, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(after), nn.ReLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * FRAMES * 9, 2))


def draw_waveforms(split: str, count: int) -> TensorDataset:
    """Of random frequency, phase and height, in noise: (count, 1, 128), and the number of the shape."""
    generator = torch.Generator().manual_seed(SEEDS[split])
    labels = torch.arange(count) % len(SHAPES)
    frequency, phase, height = torch.rand(3, count, 1, generator=generator)
    time = torch.linspace(0, 1, LENGTH)
    turns = (3 + 5 * frequency) * time * torch.where(labels[:, None] == SHAPES.index("chirp"), 0.5 + time, 1) + phase
    sine, ramp = torch.sin(2 * math.pi * turns), 2 * (turns % 1) - 1
    waves = torch.stack([sine, sine.sign(), ramp, 2 * ramp.abs() - 1, sine])[labels, torch.arange(count)]
    noisy = (0.5 + height) * waves + 0.5 * torch.randn(count, LENGTH, generator=generator)
    return TensorDataset(noisy[:, None], labels)


def draw_clips(split: str, count: int) -> TensorDataset:
    """Digits that move straight on: (count, 1, 6, 20, 20), and their speed in pixels a frame, (count, 2)."""
    generator = torch.Generator().manual_seed(SEEDS[split])
    digits = torch.tensor(load_digits().images[DIGITS[split]] / 16, dtype=torch.float32)
    chosen = digits[torch.randint(len(digits), (count,), generator=generator)]
    speeds = 3 * torch.rand(count, 2, generator=generator) - 1.5
    clips = 0.2 * torch.randn(count, 1, FRAMES, SIDE, SIDE, generator=generator)
    for frame in range(FRAMES):
        corners = (6 + (frame - FRAMES / 2) * speeds).round().long().clamp(0, SIDE - 8)
        for clip, digit, (top, left) in zip(clips, chosen, corners.tolist(), strict=True):
            clip[0, frame, top : top + 8, left : left + 8] += digit
    return TensorDataset(clips, speeds)


def waveform_loss(network: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(network(batch[0]), batch[1])


def speed_loss(network: nn.Module, batch: Batch) -> Tensor:
    return functional.smooth_l1_loss(network(batch[0]), batch[1])


def score_waveforms(network: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    right = torch.cat([network(signals).argmax(1) == labels for signals, labels in batches])
    return {"accuracy": float(right.float().mean())}


def score_speeds(network: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    return {"MAE": float(torch.cat([network(clips) - speeds for clips, speeds in batches]).abs().mean())}


def build_waveforms() -> Task:
    """Classification of signals: (n, 1, 128) to (n, 5)."""
    torch.manual_seed(0)
    train = DataLoader(draw_waveforms("train", 2000), 64, shuffle=True)
    return Task.from_loaders(
        train_once(WaveNet(), train, waveform_loss, file=__file__, epochs=10),
        train,
        search=DataLoader(draw_waveforms("search", 500), 100),
        test=DataLoader(draw_waveforms("test", 500), 100),
        loss=waveform_loss,
        score=score_waveforms,
        metrics="accuracy, %",
        outputs=lambda network, batch: Logits(network(batch[0])),
        example=torch.zeros(2, 1, LENGTH),
    )


def build_clips() -> Task:
    """Regression on clips: (n, 1, 6, 20, 20) to (n, 2)."""
    torch.manual_seed(0)
    train = DataLoader(draw_clips("train", 1000), 32, shuffle=True)
    return Task.from_loaders(
        train_once(ClipNet(), train, speed_loss, file=__file__, epochs=10),
        train,
        search=DataLoader(draw_clips("search", 300), 100),
        test=DataLoader(draw_clips("test", 300), 100),
        loss=speed_loss,
        score=score_speeds,
        metrics="MAE, pixels, lower is better",
        outputs=lambda network, batch: network(batch[0]),
        example=torch.zeros(2, 1, FRAMES, SIDE, SIDE),
    )


def main() -> None:
    """The cells, one after another."""
    for build in (build_waveforms, build_clips):
        result = api.search(task=build(), targets=0.5, strategy="acra-uniform", final_seeds=2, workers=0)
        print(result.finalists[["target", "kept_flops", f"test_{result.metric.name}"]].to_string(index=False))


if __name__ == "__main__":
    main()
