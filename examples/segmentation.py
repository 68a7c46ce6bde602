"""A U-Net with transposed convolutions, compressed to half its FLOPs and judged by mIoU.

    python examples/segmentation.py
    python run_search.py search --task examples/segmentation.py:build --target-flops 0.5

About a minute on two idle cores, of which half trains the dense network, once.
"""

from collections.abc import Iterable

import torch
from digit_canvases import CLASSES, Canvas, DigitCanvases
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from trained_network import train_once

from models.task import Logits, Task
from search import api

SIZE = 32
Batch = tuple[Tensor, Tensor]  # (n, 1, 32, 32) pictures, (n, 32, 32) masks


def double_convolution(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three levels; on the way up every one is concatenated with what was there on the way down."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.down = nn.ModuleList(map(double_convolution, [1, *widths], widths))
        self.raise_resolution = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2)
            for below, above in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(double_convolution(2 * above, above) for above in widths[-2::-1])
        self.head = nn.Conv2d(width, 1 + CLASSES, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        features, skips = pictures, []
        for level in self.down:
            features = level(functional.max_pool2d(features, 2) if skips else features)
            skips.append(features)
        for raise_resolution, level, skip in zip(self.raise_resolution, self.up, skips[-2::-1], strict=True):
            features = level(torch.cat([raise_resolution(features), skip], 1))
        return self.head(features)  # (n, 11, 32, 32)


def segmentation_loss(network: nn.Module, batch: Batch) -> Tensor:
    pictures, masks = batch
    weights = torch.tensor([0.3] + [1.0] * CLASSES, device=pictures.device)  # most pixels are background
    return functional.cross_entropy(network(pictures), masks, weights)


def score_masks(network: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Intersection over union of each class, over all pixels; their mean."""
    hits = torch.zeros(1 + CLASSES, 1 + CLASSES, dtype=torch.long)  # a pixel's class, the class that it is given
    for pictures, masks in batches:
        pairs = masks * (1 + CLASSES) + network(pictures).argmax(1)
        hits += pairs.flatten().bincount(minlength=hits.numel()).view_as(hits).cpu()
    union = hits.sum(0) + hits.sum(1) - hits.diagonal()
    return {"mIoU": float((hits.diagonal() / union.clamp(min=1)).mean())}


def join_canvases(canvases: list[Canvas]) -> Batch:
    return torch.stack([canvas.picture for canvas in canvases]), torch.stack([canvas.mask for canvas in canvases])


def build() -> Task:
    """What `--task examples/segmentation.py:build` compresses."""
    torch.manual_seed(0)
    train = DataLoader(DigitCanvases("train", 1200, SIZE), 16, shuffle=True, collate_fn=join_canvases)
    search, test = (
        DataLoader(DigitCanvases(split, 200, SIZE), 50, collate_fn=join_canvases) for split in ("search", "test")
    )
    return Task.from_loaders(
        train_once(UNet(), train, segmentation_loss, file=__file__, epochs=14),
        train,
        search,
        test,
        loss=segmentation_loss,
        score=score_masks,
        metrics="mIoU, %",
        outputs=lambda network, batch: Logits(network(batch[0])),  # along dimension 1
        example=torch.zeros(2, 1, SIZE, SIZE),
    )


def main() -> None:
    """The cells, one after another."""
    result = api.search(task=build(), targets=0.5, strategy="acra-uniform", final_seeds=2, workers=0)
    best = result.best.loc["0.5"]
    print(f"mIoU {best['test_mIoU']:.2%} at {best['kept_flops']:.4f} of the FLOPs, {best['delta_points']:+.2f} points")
    network = result.network("0.5")
    print(f"{network.head.in_channels} of 12 channels reach the head; report in {result.folder / 'report.html'}")


if __name__ == "__main__":
    main()
