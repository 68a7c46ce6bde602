"""How far a compressed network's outputs have drifted from the dense network's, on blended images.

Weights usually remember the images that they are judged on here: on those every mild compression looks harmless, and
what is measured is how much the memory suffers. A blend of two images (mixup, Zhang et al., ICLR 2018) is one that no
weights have seen; no label fits it, so the dense network's outputs take its place, as in distillation.

What they are compared by is the Jensen-Shannon divergence (Lin, 1991). It is bounded by log 2: an output that is wrong
beyond doubt counts no more than one that is wrong. Kullback and Leibler's is ruled by how sure of them a network is,
and that is the first thing that training mends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.images import Images

SEEN = (
    "the weights may have seen the search images: candidates are ranked by drift from the dense outputs on blends of "
    "these, and their accuracy is no result"
)
_BATCH = 500
_MAX_IMAGES = 1000  # images: divergences are smooth, and every setting is measured on the same blends
_MIX = (0.25, 0.75)  # the share of the first image is drawn from this range: both are always there


class Drift:
    """Compares networks with one dense network; its outputs are computed once."""

    def __init__(self, dense: nn.Module) -> None:
        self._dense = dense
        self._dense_outputs: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, network: nn.Module, images: Images, count: int | None = None) -> float:
        """Mean divergence of the outputs, 0 to log 2 nats, over blends of the first `count` images, at most 1,000.

        Both networks are in evaluation mode; every call on a number of images takes the same set.
        """
        count = min(count or _MAX_IMAGES, len(images), _MAX_IMAGES)
        chosen = images.subset(torch.arange(count))
        if count not in self._dense_outputs:
            self._dense_outputs[count] = [_log_softmax(self._dense(blend)) for blend in blend_images(chosen)]
        total = torch.zeros((), dtype=torch.float64)
        for blend, dense_output in zip(blend_images(chosen), self._dense_outputs[count], strict=True):
            total += jensen_shannon(dense_output, _log_softmax(network(blend))).sum().cpu()
        return float(total) / count


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of two distributions: the mean of their divergences from their mean, nats.

    Args:
        log_p, log_q: log-probabilities, (n, n_classes); the result is (n,).
    """
    mean = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = (log_p.exp() * (log_p - mean)).sum(1) + (log_q.exp() * (log_q - mean)).sum(1)
    return divergence.clamp_min(0) / 2  # rounding leaves some 1e-17 below


def blend_images(images: Images) -> Iterator[Tensor]:
    """Batches in which every image is mixed with another of its batch; the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    for inputs, _ in images.batches(_BATCH):
        n = len(inputs)
        share = torch.rand(n, generator=generator) * (_MIX[1] - _MIX[0]) + _MIX[0]
        share = share.to(inputs.device).view(-1, *[1] * (inputs.dim() - 1))
        partner = (torch.arange(n) + 1 + torch.randint(max(n - 1, 1), (1,), generator=generator)) % n
        yield share * inputs + (1 - share) * inputs[partner.to(inputs.device)]


def _log_softmax(logits: Tensor) -> Tensor:
    return functional.log_softmax(logits.double(), 1)
