"""Choice of the compactors' rows to forget, its schedule, and the force on them (ResRep's training half).

The gradient of row d of a compactor Q becomes `m ∂L/∂Q[d] + λ Q[d] / ‖Q[d]‖₂`, m = 0 for the rows to be forgotten.
With momentum μ, a force λ that acts for k steps at learning rate η on a row at rest moves it by

    λ · η/(1−μ) · (k − μ(1 − μ^k)/(1−μ))

In the paper's 375,000 steps λ = 1e-4 covers the distance 1 many times. In a shorter budget, the rows to be forgotten
get the λ that this formula requires for them to reach zero well before the end. The λ of all other rows is never
scaled, as it would shrink rows that stay.

Two more of the paper's choices need many steps. In a short budget rows have hardly competed when the first are chosen,
and their norms say less than nothing; so the norm of the filter counts as well, the more the shorter the budget. And Q,
a full mixing matrix behind a norm, cannot settle in few steps at the learning rate of the other layers; so it learns at
a lower rate. `share_of_paper` says how far both follow the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from methods.resrep.compactor import ZERO, Compactor

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOMENTUM = 0.99  # on Q, in the paper's 375,000 steps
MEMORY = 0.04  # share of the steps that 1/(1−μ), the optimizer's memory, may take at most
LEAST_MOMENTUM = 0.9  # the usual momentum of SGD
PAPER_STEPS = 480 * 782  # epochs of CIFAR-10 in batches of 64
# Shares of the steps at which selection begins, selection ends, and rows are at zero. They are the paper's, rounded up,
# for ResNet-56's 500 rows: 5 of 480 epochs; 25,000 more steps, at four rows per 200; 10,000 more, the way of a row.
WARM_UP, SELECTED, ARRIVED = 5 / 480, 0.08, 0.2
MEAN_RATE = 0.45  # least mean rate between SELECTED and ARRIVED, over the peak rate (one-cycle 0.49, cosine 0.95)
MARGIN = 1.5  # rows may have grown, or move outward when they are masked
EVENTS = 20  # number of selections in a budget too short for one every `interval` steps
SPRINT = 5  # steps that a late row is given to reach zero
TIE = 1e-9  # least weight of the filter's norm, to decide between equal rows; far below float32's resolution at 1
BATCH = 4  # least number of additional rows that a selection may mask


@dataclass(frozen=True)
class Schedule:
    """When rows are selected, how many, and the forces on them."""

    first: int
    """Step of the first selection; before it, rows compete."""
    last: int
    """Step of the last selection, after which the choice stands."""
    interval: int
    batch: int
    """How many more rows each selection may mask."""
    penalty: float
    """λ of the rows that stay: the paper's, whatever the budget."""
    pull: float
    """λ of the rows to be forgotten, at least `penalty`."""
    momentum: float
    """Of the optimizer, on Q."""
    lr: float
    """Peak learning rate of Q."""
    size_weight: float
    """Rows are ranked by norm · size ^ size_weight, where `size` is the relative norm of the row's filter."""
    deadline: int
    """Step by which rows should be at zero."""
    rate: float
    """Mean learning rate assumed until the deadline."""

    def pull_strength(self, step: int, norms: Tensor) -> Tensor:
        """λ at `step` of rows to be forgotten with these `norms`: `pull`, or more where a row is late."""
        urgency = MARGIN / distance_within(max(SPRINT, self.deadline - step), self.rate, self.momentum)
        return (norms * urgency).clamp(min=self.pull)

    def is_selection(self, step: int) -> bool:
        return self.first <= step <= self.last and (step - self.first) % self.interval == 0

    def may_mask(self, step: int) -> int | None:
        """How many rows the selection at `step` may mask; None: as many as it takes."""
        if step + self.interval > self.last:
            return None
        return self.batch * (1 + (step - self.first) // self.interval)


def distance_within(steps: int, lr: float, momentum: float) -> float:
    """The distance by which a unit force moves a row at rest within `steps` steps at a constant rate."""
    friction = 1 - momentum
    return lr / friction * (steps - momentum * (1 - momentum**steps) / friction)


def share_of_paper(steps: int) -> float:
    """The square root of the budget over the paper's, at most 1: noise adds up with the root of the steps."""
    return min(1.0, math.sqrt(steps / PAPER_STEPS))


def plan_schedule(steps: int, lr: float, to_forget: int, *, penalty: float, interval: int) -> Schedule:
    """A schedule that brings `to_forget` rows to zero within `steps` steps with peak rate `lr`.

    `penalty` and `interval` are the paper's constants (1e-4, 200); they apply where the budget is long enough.
    """
    first, last, deadline = int(WARM_UP * steps), int(SELECTED * steps), int(ARRIVED * steps)
    interval = max(1, min(interval, (last - first) // EVENTS))
    events = (last - first) // interval + 1
    momentum = min(MOMENTUM, max(LEAST_MOMENTUM, 1 - 1 / max(1.0, MEMORY * steps)))
    lr = share_of_paper(max(1, steps)) * lr
    rate = MEAN_RATE * lr
    return Schedule(
        first=first,
        last=last,
        interval=interval,
        batch=max(BATCH, math.ceil(to_forget / events)),
        penalty=penalty,
        pull=max(penalty, MARGIN / distance_within(max(1, deadline - last), rate, momentum)),
        momentum=momentum,
        lr=lr,
        size_weight=max(TIE, 1 - share_of_paper(steps)),
        deadline=deadline,
        rate=rate,
    )


def smallest_rows(
    scores: Sequence[Floats],
    floors: Sequence[int],
    limit: int | None = None,
    flops: Callable[[Floats], Counts] | None = None,
    budget: int = 0,
) -> list[Bools]:
    """The rows to mask, which are the smallest of all sites together.

    Args:
        scores: per site, the score of every row; 0 for a row at zero.
        floors: per site, the number of rows that must stay.
        limit: the largest number of rows to mask.
        flops: widths (n, n_sites) -> FLOPs (n,); masking then stops where `budget` is met, and the largest masked rows
            that still fit into it are unmasked again.

    Returns:
        Per site (D,) bool, true for masked rows.
    """
    site, index = _rank_rows(scores, floors)
    site, index = site[:limit], index[:limit]
    full = np.array([len(site_scores) for site_scores in scores], dtype=np.float64)
    if flops is not None:  # mask as few rows as meet the budget: widths after each further row, and the first that fit
        taken = np.zeros((len(site) + 1, len(scores)))
        taken[np.arange(1, len(site) + 1), site] = 1
        met = flops(full - taken.cumsum(0)) <= budget
        enough = int(met.argmax()) if met.any() else len(site)
        site, index = site[:enough], index[:enough]
    masks = [np.zeros(len(site_scores), dtype=np.bool_) for site_scores in scores]
    for s, r in zip(site, index, strict=True):
        masks[s][r] = True
    if flops is not None and met.any():
        _unmask_fitting(masks, scores, flops, budget)
    return masks


def _rank_rows(scores: Sequence[Floats], floors: Sequence[int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Sites and rows of all rows that may be masked, smallest first, without the `floors` largest of each site."""
    sites, indices, values = [], [], []
    for s, (site_scores, floor) in enumerate(zip(scores, floors, strict=True)):
        small = site_scores.argsort(kind="stable")[: max(0, len(site_scores) - floor)]
        sites.append(np.full(len(small), s, dtype=np.intp))
        indices.append(small)
        values.append(site_scores[small])
    order = np.concatenate(values).argsort(kind="stable")
    return np.concatenate(sites)[order], np.concatenate(indices)[order]


def _unmask_fitting(
    masks: list[Bools], scores: Sequence[Floats], flops: Callable[[Floats], Counts], budget: int
) -> None:
    """Unmask, largest first, the rows that are not at zero and fit into the budget; in place."""
    while True:
        widths = np.array([np.count_nonzero(~mask) for mask in masks], dtype=np.float64)
        fits = flops(widths + np.eye(len(masks))) <= budget
        largest = [
            (float(site_scores[mask].max()), s)
            for s, (site_scores, mask) in enumerate(zip(scores, masks, strict=True))
            if fits[s] and mask.any()
        ]
        score, s = max(largest, default=(0.0, -1))
        if score <= ZERO:
            return
        masks[s][int(np.where(masks[s], scores[s], -1).argmax())] = False


@torch.no_grad()
def set_gradient(compactor: Compactor, masked: Tensor, schedule: Schedule, step: int) -> None:
    """Set `m ∂L/∂Q[d] + λ Q[d]/‖Q[d]‖` for every row d; a row at zero has no direction and is not pulled."""
    q = compactor.current_rows()
    norms = torch.linalg.vector_norm(q, dim=1)
    strength = torch.where(masked, schedule.pull_strength(step, norms), schedule.penalty) / norms
    strength.masked_fill_(norms == 0, 0)
    gradient = compactor.weight.grad
    loss = torch.zeros_like(q) if gradient is None else gradient * ~masked[:, None]
    compactor.weight.grad = loss + strength[:, None] * q


@torch.no_grad()
def forget_arrived_rows(compactor: Compactor, masked: Tensor, before: Tensor) -> None:
    """Forget for good the masked rows that are at zero, or would cross it with the next step.

    The pull has constant length, so that a row would oscillate about zero with the length of its steps. A row has
    arrived if its last step (from `before`) was at least as long as the row is now.
    """
    q = compactor.current_rows()
    norms, stepped = q.norm(dim=1), (q - before).norm(dim=1)
    arrived = masked & ((norms < ZERO) | (norms <= stepped))
    compactor.alive.masked_fill_(arrived[:, None], 0)
