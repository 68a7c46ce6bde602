"""Scales and codewords of clustered kernels: their training and their stored form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Tuning
from methods.tables.bitpack import BitReader, bits_for, pack_bits, to_bytes
from methods.tables.codebook import CodebookConv, codebook_layers

HALF_MAX = torch.finfo(torch.half).max


def signed_scales(weight: Tensor) -> Tensor:
    """sign(center weight) · ‖W[n, c]‖₂ of every kernel of (N, C / groups, Kh, Kw); a center of 0 counts as positive."""
    center = weight
    for size in weight.shape[2:]:
        center = center[:, :, size // 2]
    return weight.flatten(2).norm(dim=2) * torch.where(center < 0, -1.0, 1.0)


def in_16_bits(scale: Tensor) -> Tensor:
    """The nearest scales that 16 bits can hold, in the type they came in."""
    return scale.clamp(-HALF_MAX, HALF_MAX).half().to(scale.dtype)


def scaled_layers(network: nn.Module) -> dict[str, CodebookConv]:
    """The clustered convolutions of a network, by name; those of other methods have no scales."""
    return {name: layer for name, layer in codebook_layers(network).items() if layer.scale is not None}


class ClusteredTuning(Tuning):
    """Trains scales in full precision, rounds them to their stored form in the end, and gives codebooks other rates.

    A centroid's gradient is the sum of a · ∂L/∂w over its kernels, thousands where a network shares one codebook. With
    the rate η / Σ a², a · centroid comes nearest to where plain steps of rate η would move those kernels.
    """

    def __init__(self, lr: float) -> None:
        self._lr = lr

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """A group for each codebook, at η over the mean of its centroids' Σ a² but at most η, and one for the rest."""
        energy: dict[nn.Parameter, float] = {}
        for layer in scaled_layers(network).values():
            assert layer.scale is not None
            energy[layer.bank] = energy.get(layer.bank, 0.0) + float(layer.scale.detach().square().sum())
        rest = [p for p in network.parameters() if p.requires_grad and p not in energy]
        banks = [{"params": [bank], "lr": self._lr / max(1.0, sum_ / len(bank))} for bank, sum_ in energy.items()]
        return [{"params": rest}, *banks] if rest else banks

    def finish(self, network: nn.Module) -> nn.Module:
        with torch.no_grad():
            for layer in scaled_layers(network).values():
                assert layer.scale is not None
                layer.scale.copy_(in_16_bits(layer.scale))
        return network


def pack_codewords(codewords: Tensor, k: int, transforms: int) -> Tensor:
    """Bytes of all centroid numbers, then of all transform numbers; a pruned kernel has number 0 and scale 0."""
    words = torch.where(codewords == k * transforms, 0, codewords.long()).flatten()
    fields = (pack_bits(words // transforms, bits_for(k)), pack_bits(words % transforms, bits_for(transforms)))
    return to_bytes(*fields)


def unpack_codewords(packed: Tensor, kernels: int, k: int, transforms: int) -> Tensor:
    reader = BitReader(packed)
    return reader.read_values(kernels, bits_for(k)) * transforms + reader.read_values(kernels, bits_for(transforms))
