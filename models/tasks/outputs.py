"""Outputs of a compressed network beside the dense one's: what distillation follows and what drift measures.

Logits are compared as the distributions that they stand for, all other outputs by their squared error relative to the
variance of the dense network's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Logits:
    """Marks an output as unnormalised log-probabilities of classes, which lie along dimension `dim`."""

    scores: Tensor
    dim: int = 1

    def float(self) -> Logits:
        return Logits(self.scores.float(), self.dim)

    def rows(self) -> Tensor:
        """(n, classes), whatever other dimensions there are."""
        return self.scores.movedim(self.dim, -1).flatten(0, -2)


Output = Tensor | Logits


def output_list(outputs: Any) -> list[Output]:
    """The tensors and logits in nested lists, tuples and dictionaries, in order."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor | Logits)]


def distillation_loss(outputs: Sequence[Output], dense_outputs: Sequence[Output], temperature: float) -> Tensor:
    """τ² · KL(dense ‖ outputs) at temperature τ for logits (Hinton et al., 2015), squared error for others.

    That is relative to the variance of the dense output, but never steeper than the squared error itself: where outputs
    hardly vary, the rate of the task's own loss would be too much for it.

    A scalar; that of several outputs is their sum.
    """
    losses = []
    for output, dense in zip(outputs, dense_outputs, strict=True):
        if isinstance(output, Logits) and isinstance(dense, Logits):
            soft, wanted = (functional.log_softmax(logits.rows() / temperature, 1) for logits in (output, dense))
            divergence = functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
            losses.append(temperature**2 * divergence)
        else:
            losses.append(relative_error(output, dense, least=1.0).mean())
    return torch.stack(losses).sum()


def output_divergence(outputs: Sequence[Output], dense_outputs: Sequence[Output]) -> Tensor:
    """Mean over a batch, a float64 scalar: Jensen-Shannon divergences of logits (0 to log 2), relative squared errors.

    That of several outputs is their sum.
    """
    total = torch.zeros((), dtype=torch.float64)
    for output, dense in zip(outputs, dense_outputs, strict=True):
        if isinstance(output, Logits) and isinstance(dense, Logits):
            log_p, log_q = (functional.log_softmax(logits.rows().double(), 1) for logits in (dense, output))
            total += jensen_shannon(log_p, log_q).mean().cpu()
        else:
            total += relative_error(output, dense).double().mean().cpu()
    return total


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of two distributions: the mean of their divergences from their mean, nats.

    It is bounded by log 2 (Lin, 1991): an output that is wrong beyond doubt counts no more than one that is wrong.

    Args:
        log_p, log_q: log-probabilities, (n, n_classes); the result is (n,).
    """
    mean = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = (log_p.exp() * (log_p - mean)).sum(1) + (log_q.exp() * (log_q - mean)).sum(1)
    return divergence.clamp_min(0) / 2  # rounding leaves some 1e-17 below


def relative_error(output: Output, dense: Output, least: float = 0.0) -> Tensor:
    """Squared errors over the variance of the dense output, or over `least` if that is more; over 1 if it is zero."""
    assert isinstance(output, Tensor)
    assert isinstance(dense, Tensor)
    output, dense = output.float(), dense.float()
    variance = dense.var(correction=0) if dense.numel() > 1 else dense.new_ones(())
    return (output - dense).square() / torch.where(variance > 0, variance, 1.0).clamp(min=least)
