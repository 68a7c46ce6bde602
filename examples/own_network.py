"""Your own network and arrays: search, look at the tables, take the compressed network.

    python examples/own_network.py

About half a minute on two idle cores; everything lands in `results/`.
"""

# %% A network of one's own, and images as arrays of bytes
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from search import api


class Net(nn.Module):
    """Three convolutions with batch norm, global average pooling, a linear classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [1, width, 2 * width, 2 * width]
        blocks = [
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise(channels)
        ]
        self.features, self.head = nn.Sequential(*blocks), nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


def main() -> None:
    """The cells, one after another."""
    digits = load_digits()
    images, labels = (digits.images * 15.9).astype(np.uint8), digits.target  # (1797, 8, 8), (1797,)
    data = images[:1400], labels[:1400], images[1400:], labels[1400:]

    # %% What would half the FLOPs look like? Nothing is trained for that
    planned = api.plan(Net(), data, targets=0.5)
    print(planned.table.to_string(index=False))

    # %% A dense baseline that leaves the search split unseen; a network trained elsewhere can be given as it is
    torch.manual_seed(0)
    dense = api.train(Net(), data, out="results/own-dense.safetensors", epochs=5, batch_size=64, force=True)

    # %% The search: two targets, candidates fine-tuned for one epoch, the best of each for two, with two seeds
    result = api.search(
        dense.network(),
        data,
        weights=dense.weights,
        targets=[0.5, 0.25],
        epochs=1,
        final_epochs=2,
        final_seeds=2,
        batch_size=64,
    )
    print(result.best[["strategy", "kept_flops", "params", "test_accuracy", "test_std"]].to_string())

    # %% The network itself: fine-tuned, narrower, trainable
    small = result.network("0.25")
    count = sum(parameter.numel() for parameter in small.parameters())
    print(f"{type(small).__name__} with {count:,} parameters; report in {result.folder / 'report.html'}")


if __name__ == "__main__":
    main()
