"""Training: a network on a task's batches for a recipe's epochs, optionally following the dense network's outputs.

The loop never waits for the device but for a look at the loss now and then, so that a GPU stays busy.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.base import Tuning
from models.errors import UserError
from models.tasks.batches import count_inputs
from models.tasks.loaded import Batch, Objective, TrainingPart
from search.judge.checkpoint import Checkpoint
from search.judge.stages import StageLoss, match_stages
from search.judge.training_step import Losses, make_step, mixed_precision
from search.recipe import Recipe

_WARM_UP = 0.3  # share of a one-cycle schedule that rises
_START = 1 / 25  # first rate of the rise, as a share of the peak
_LOOK_EVERY = 50  # steps between looks at the loss; each look waits for the device


class DivergedError(RuntimeError):
    """The loss is not a number any more."""


class TimeLimitError(RuntimeError):
    """The time allowed for a candidate is over."""


class Finetuned(NamedTuple):
    """How a fine-tune went."""

    spared: int
    """Steps that its checkpoint spared it."""
    plain_because: str | None
    """Why a GPU did its steps operator by operator, if it did; None on other devices."""


def count_steps(recipe: Recipe, part: TrainingPart) -> int:
    """Optimizer steps of a recipe on a part of the training set."""
    return math.ceil(recipe.epochs * part.epoch_steps(recipe.batch_size))


def learning_rate_share(step: int, steps: int, schedule: str) -> float:
    """Learning rate at a step as a share of its peak: 1 → 0 by cosine, after a linear rise in `one-cycle`."""
    progress = (step + 0.5) / steps
    if schedule == "one-cycle":
        if progress < _WARM_UP:
            return _START + (1 - _START) * progress / _WARM_UP
        progress = (progress - _WARM_UP) / (1 - _WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * progress))


def finetune(
    network: nn.Module,
    objective: Objective,
    part: TrainingPart,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    tuning: Tuning | None = None,
    teacher: nn.Module | None = None,
    deadline: float | None = None,
    on_step: Callable[[int, int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    until: float | None = None,
) -> Finetuned:
    """Train `network` in place; it is left in evaluation mode.

    Args:
        device: where the network and the batches are.
        teacher: the dense network, in evaluation mode; used if the recipe distils and the task has outputs.
        deadline: `time.monotonic()` value after which TimeLimitError is raised.
        on_step: called with (steps done, steps in all).
        checkpoint: written at the end of every epoch; if it holds a part of this fine-tune, that is not done again.
        until: break off after so many epochs; the learning rate is that of the whole fine-tune, so that going on from
            the checkpoint is the same as never having stopped.

    Raises:
        DivergedError: the loss became infinite or NaN.
        TimeLimitError: the deadline passed.
    """
    epoch_steps, steps = part.epoch_steps(recipe.batch_size), count_steps(recipe, part)
    end = steps if until is None else min(steps, math.ceil(until * epoch_steps))
    device, tuning = torch.device(device), tuning or Tuning()
    teacher = teacher if recipe.distill_weight and objective.has_outputs else None
    losses = Losses(objective, recipe, teacher, _stage_loss(network, teacher, objective, part, recipe, seed))
    step = make_step(network, losses, tuning, device)
    network.train()
    torch.manual_seed(seed)  # dropout
    spared = 0 if checkpoint is None else checkpoint.load(network, step.optimizer, tuning, max_step=end)
    watch = _Watch(deadline)
    for number, batch in enumerate(_remaining_batches(part, recipe, seed, end, spared), start=spared):
        watch(number, end, step(batch, number, learning_rate_share(number, steps, recipe.schedule)))
        if on_step is not None:
            on_step(number + 1, steps)
        if checkpoint is not None and ((number + 1) % epoch_steps == 0 or number + 1 == end):
            checkpoint.save(number + 1, network, step.optimizer, tuning)
    network.eval()
    return Finetuned(spared, step.plain_because if device.type == "cuda" else None)


class _Watch:
    """Stops a run that diverged or that takes too long."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline

    def __call__(self, step: int, steps: int, loss: Tensor) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeLimitError(f"its time was over at step {step + 1} of {steps}")
        if (step + 1) % _LOOK_EVERY == 0 or step + 1 == steps:
            value = float(loss)
            if not math.isfinite(value):
                raise DivergedError(f"the loss was {value} at step {step + 1} of {steps}; a lower lr may do")


def _remaining_batches(part: TrainingPart, recipe: Recipe, seed: int, steps: int, done: int) -> Iterator[Batch]:
    """Batches of steps `done` to `steps`.

    The first `done` steps were done before an interruption: the batches of an epoch that was begun are drawn again, so
    that the random state is the same, and passed over.
    """
    epoch, over = divmod(done, part.epoch_steps(recipe.batch_size))
    while done < steps:
        drawn = part.training_batches(recipe.batch_size, seed=seed, epoch=epoch)
        before = done
        for batch in itertools.islice(drawn, over, None):
            yield batch
            done += 1
            if done == steps:
                return
        if done == before and not over:
            raise UserError(
                f"there are no training batches in epoch {epoch}; a generator is used up after one: make a new one for "
                "every epoch"
            )
        epoch, over = epoch + 1, 0


def _stage_loss(
    network: nn.Module, teacher: nn.Module | None, objective: Objective, part: TrainingPart, recipe: Recipe, seed: int
) -> StageLoss:
    """Of the stages in which the network, not trained yet, can follow the teacher: none if the recipe has it not so."""
    if teacher is None or not recipe.distill_features:
        return StageLoss(network, network, ())
    network.eval()
    batch = next(iter(part.statistics_batches(recipe.batch_size, seed=seed)), None)
    stages = () if batch is None else match_stages(teacher, network, objective, batch)
    return StageLoss(teacher, network, stages)


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    objective: Objective,
    part: TrainingPart,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> None:
    """Measure batch-norm statistics anew, as plain averages over `count` training inputs, augmented as in training.

    The weights have learned to go with statistics of augmented images: ResNet-20 with those of images as they are reads
    88.8 % on CIFAR-10 in place of 91.6 %.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms or count == 0:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    seen = 0
    for batch in part.statistics_batches(batch_size, seed=seed):
        with mixed_precision(torch.device(device)):
            objective.forward(network, batch)
        seen += count_inputs(batch)
        if seen >= count:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
