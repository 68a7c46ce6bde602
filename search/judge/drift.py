"""How far a compressed network's outputs have drifted from the dense network's, on blended images.

Weights usually remember the images that they are judged on here: on those every mild compression looks harmless, and
what is measured is how much the memory suffers. A blend of two images (mixup, Zhang et al., ICLR 2018) is one that no
weights have seen; no label fits it, so the dense network's outputs take its place, as in distillation.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data import Images

SEEN = (
    "the weights may have seen the search images: candidates are ranked by drift from the dense outputs on blends of "
    "these, and their accuracy is no result"
)
_BATCH = 500
_ENOUGH = 1000  # images: divergences are smooth, and every setting is measured on the same blends
_MIX = (0.25, 0.75)  # the share of the first image is drawn from this range: both are always there


class Drift:
    """Compares networks with one dense network; its outputs are computed once."""

    def __init__(self, dense: nn.Module) -> None:
        self._dense = dense
        self._wanted: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, network: nn.Module, images: Images, count: int | None = None) -> float:
        """Mean KL(dense ‖ network) in nats over blends of the first `count` images, at most 1,000.

        Both networks are in evaluation mode; every call on a number of images takes the same set.
        """
        count = min(count or _ENOUGH, len(images), _ENOUGH)
        chosen = images.subset(torch.arange(count))
        if count not in self._wanted:
            self._wanted[count] = [_log_softmax(self._dense(blend)) for blend in blends(chosen)]
        total = torch.zeros((), dtype=torch.float64)
        for blend, wanted in zip(blends(chosen), self._wanted[count], strict=True):
            got = _log_softmax(network(blend))
            total += functional.kl_div(got, wanted, reduction="sum", log_target=True).double().cpu()
        return float(total) / count


def blends(images: Images) -> Iterator[Tensor]:
    """Batches in which every image is mixed with another of its batch; the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    for inputs, _ in images.batches(_BATCH):
        n = len(inputs)
        share = torch.rand(n, generator=generator) * (_MIX[1] - _MIX[0]) + _MIX[0]
        share = share.to(inputs.device).view(-1, *[1] * (inputs.dim() - 1))
        partner = (torch.arange(n) + 1 + torch.randint(max(n - 1, 1), (1,), generator=generator)) % n
        yield share * inputs + (1 - share) * inputs[partner.to(inputs.device)]


def _log_softmax(logits: Tensor) -> Tensor:
    return functional.log_softmax(logits.float(), 1)
