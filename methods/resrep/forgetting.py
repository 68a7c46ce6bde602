"""Which rows of the compactors are forgotten, when, and how hard they are pulled (ResRep's training half).

The gradient of row d of a compactor Q becomes `m ∂L/∂Q[d] + λ Q[d] / ‖Q[d]‖₂`, m = 0 for the rows to be forgotten.
With momentum μ, a force λ that acts from rest for k steps at learning rate η moves a row by

    λ · η/(1−μ) · (k − μ(1 − μ^k)/(1−μ))

The paper's λ = 1e-4 covers the distance 1 within its 375,000 steps many times over. A short budget gives the rows
that are to be forgotten the λ that this formula asks for, so that they arrive well before the end. The λ of the rows
that stay is never scaled: it would shrink what is to be kept.

Two things that the paper has steps for hurt where there are few. The rows have hardly competed when the first of them
must go, and their norms then say less than nothing; so filters are told apart by their own size, all the more the
shorter the budget. And Q, a full mixing matrix behind a norm, takes longer to settle at the learning rate of the rest
than there is time for; it learns at a part of that rate. `share_of_paper` is the part of both that is the paper's.
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
MEMORY = 0.04  # but an optimizer that remembers 100 steps needs room: 1/(1−μ) is at most this part of the steps,
LEAST_MOMENTUM = 0.9  # and at least what is usual elsewhere
PAPER_STEPS = 480 * 782  # epochs of CIFAR-10 in batches of 64
# Parts of the steps by which: selection begins; ends; rows are at zero. The paper's, rounded up, with ResNet-56's 500
# rows: 5 epochs of 480; 25,000 steps more, for four rows in 200; 10,000 more, for one row's way.
WARM_UP, SELECTED, ARRIVED = 5 / 480, 0.08, 0.2
MEAN_RATE = 0.45  # of the peak rate, at least, between SELECTED and ARRIVED (one-cycle 0.49, cosine 0.95)
MARGIN = 1.5  # rows may have grown, or be moving outward when their mask falls
EVENTS = 20  # selections in a budget too short for one every `interval` steps
SPRINT = 5  # steps that a row which is late is given
TIE = 1e-9  # of rows as long as each other the smaller filter goes; far below float32's steps at 1
BATCH = 4  # rows more at each selection, at least


@dataclass(frozen=True)
class Schedule:
    """When rows are selected, how many more each time, and the two forces."""

    first: int
    """Step of the first selection; rows compete before."""
    last: int
    """Step of the last one; the choice stands from here on."""
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
    """Rows are ranked by norm · size ^ size_weight, `size` that of the filter which the row passes on."""
    deadline: int
    """Step by which rows should have arrived."""
    rate: float
    """Learning rate that is counted on until then."""

    def force(self, step: int, norms: Tensor) -> Tensor:
        """λ of rows to be forgotten whose norms are `norms` at `step`: `pull`, and more for those that lag."""
        urgency = MARGIN / distance_within(max(SPRINT, self.deadline - step), self.rate, self.momentum)
        return (norms * urgency).clamp(min=self.pull)

    def selects(self, step: int) -> bool:
        return self.first <= step <= self.last and (step - self.first) % self.interval == 0

    def may_mask(self, step: int) -> int | None:
        """How many rows the selection at `step` may mask; None: as many as it takes."""
        if step + self.interval > self.last:
            return None
        return self.batch * (1 + (step - self.first) // self.interval)


def distance_within(steps: int, lr: float, momentum: float) -> float:
    """How far a unit force moves a row within `steps` steps, from rest, at a constant rate."""
    friction = 1 - momentum
    return lr / friction * (steps - momentum * (1 - momentum**steps) / friction)


def share_of_paper(steps: int) -> float:
    """How far a budget is the paper's, 0 to 1; a square root, as the noise of so many steps adds up."""
    return min(1.0, math.sqrt(steps / PAPER_STEPS))


def plan_schedule(steps: int, lr: float, rows: int, *, penalty: float, interval: int) -> Schedule:
    """A schedule that has `rows` rows at zero by the part `ARRIVED` of `steps` steps with peak rate `lr`.

    `penalty` and `interval` are what the paper fixes (1e-4, 200); they hold where the budget is long enough.
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
        batch=max(BATCH, math.ceil(rows / events)),
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
    """The rows to mask: the smallest of all sites together.

    Args:
        scores: per site what every row counts for; a row at zero counts for nothing.
        floors: per site, how many rows must be left.
        limit: mask no more than so many.
        flops: of widths (n, n_sites) -> (n,); masking then stops where `budget` is met, and the largest masked rows
            that still fit beneath it are given back.

    Returns:
        Per site, which rows are masked, (D,).
    """
    site, row = _order(scores, floors)
    site, row = site[:limit], row[:limit]
    full = np.array([len(each) for each in scores], dtype=np.float64)
    if flops is not None:
        taken = np.zeros((len(site) + 1, len(scores)))
        taken[np.arange(1, len(site) + 1), site] = 1
        met = flops(full - taken.cumsum(0)) <= budget
        enough = int(met.argmax()) if met.any() else len(site)
        site, row = site[:enough], row[:enough]
    masks = [np.zeros(len(each), dtype=np.bool_) for each in scores]
    for s, r in zip(site, row, strict=True):
        masks[s][r] = True
    if flops is not None and met.any():
        _give_back(masks, scores, flops, budget)
    return masks


def _order(scores: Sequence[Floats], floors: Sequence[int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Site and row of all that may be masked, smallest first; each site's `floors` largest are left out."""
    sites, rows, values = [], [], []
    for s, (each, floor) in enumerate(zip(scores, floors, strict=True)):
        small = each.argsort(kind="stable")[: max(0, len(each) - floor)]
        sites.append(np.full(len(small), s, dtype=np.intp))
        rows.append(small)
        values.append(each[small])
    order = np.concatenate(values).argsort(kind="stable")
    return np.concatenate(sites)[order], np.concatenate(rows)[order]


def _give_back(masks: list[Bools], scores: Sequence[Floats], flops: Callable[[Floats], Counts], budget: int) -> None:
    """Unmask, largest first, the rows that are not yet at zero and fit beneath the budget; in place."""
    while True:
        widths = np.array([np.count_nonzero(~mask) for mask in masks], dtype=np.float64)
        fits = flops(widths + np.eye(len(masks))) <= budget
        largest = [
            (float(each[mask].max()), s)
            for s, (each, mask) in enumerate(zip(scores, masks, strict=True))
            if fits[s] and mask.any()
        ]
        score, s = max(largest, default=(0.0, -1))
        if score <= ZERO:
            return
        masks[s][int(np.where(masks[s], scores[s], -1).argmax())] = False


@torch.no_grad()
def set_gradient(compactor: Compactor, masked: Tensor, schedule: Schedule, step: int) -> None:
    """`m ∂L/∂Q[d] + λ Q[d]/‖Q[d]‖` for every row d; a row at zero has no direction and is not pulled."""
    rows = compactor.rows()
    norms = torch.linalg.vector_norm(rows, dim=1)
    strength = torch.where(masked, schedule.force(step, norms), schedule.penalty) / norms
    strength.masked_fill_(norms == 0, 0)
    gradient = compactor.weight.grad
    loss = torch.zeros_like(rows) if gradient is None else gradient * ~masked[:, None]
    compactor.weight.grad = loss + strength[:, None] * rows


@torch.no_grad()
def forget_arrived_rows(compactor: Compactor, masked: Tensor, before: Tensor) -> None:
    """Forget for good the masked rows that are at zero, or would cross it.

    The pull has constant length, so that a row cannot come to rest at zero by itself: it would swing about it with
    the length of its steps. One whose last step (from `before`) was as long as what is left of it has arrived.
    """
    rows = compactor.rows()
    left, stepped = rows.norm(dim=1), (rows - before).norm(dim=1)
    arrived = masked & ((left < ZERO) | (left <= stepped))
    compactor.alive.masked_fill_(arrived[:, None], 0)
