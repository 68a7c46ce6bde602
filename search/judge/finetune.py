"""Training: a network on images for a recipe's epochs, optionally following the dense network's outputs.

The loop never waits for the device but for a look at the loss now and then, so that a GPU stays busy.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.base import Tuning
from models.data.images import Images
from models.execution.gradients import ForwardGuard, run_backward
from models.execution.training_outputs import class_scores
from search.judge.checkpoint import Checkpoint
from search.recipe import Recipe

_WARM_UP = 0.3  # share of a one-cycle schedule that rises
_START = 1 / 25  # first rate of the rise, as a share of the peak
_LOOK_EVERY = 50  # steps between looks at the loss; each look waits for the device


class DivergedError(RuntimeError):
    """The loss is not a number any more."""


class TimeLimitError(RuntimeError):
    """The time allowed for a candidate is over."""


def count_steps(recipe: Recipe, images: int) -> int:
    """Optimizer steps of a recipe on so many images; the last, smaller batch of an epoch is left out."""
    return math.ceil(recipe.epochs * _epoch_steps(recipe, images))


def _epoch_steps(recipe: Recipe, images: int) -> int:
    return max(images // recipe.batch_size, 1)


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
    images: Images,
    recipe: Recipe,
    *,
    seed: int,
    tuning: Tuning | None = None,
    teacher: nn.Module | None = None,
    deadline: float | None = None,
    on_step: Callable[[int, int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    until: float | None = None,
) -> int:
    """Train `network` in place; it is left in evaluation mode. Returns how many steps the checkpoint spared.

    Args:
        teacher: the dense network, in evaluation mode; used if the recipe distils.
        deadline: `time.monotonic()` value after which TimeLimitError is raised.
        on_step: called with (steps done, steps in all).
        checkpoint: written at the end of every epoch; if it holds a part of this fine-tune, that is not done again.
        until: break off after so many epochs; the learning rate is that of the whole fine-tune, so that going on from
            the checkpoint is the same as never having stopped.

    Raises:
        DivergedError: the loss became infinite or NaN.
        TimeLimitError: the deadline passed.
    """
    steps = count_steps(recipe, len(images))
    end = steps if until is None else min(steps, math.ceil(until * _epoch_steps(recipe, len(images))))
    tuning = tuning or Tuning()
    optimizer = torch.optim.SGD(
        tuning.parameter_groups(network),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    network.train()
    torch.manual_seed(seed)  # dropout
    spared = 0 if checkpoint is None else checkpoint.load(network, optimizer, tuning, max_step=end)
    watch, guard = _Watch(deadline), ForwardGuard()
    for step, (inputs, labels) in enumerate(_remaining_batches(images, recipe, seed, end, spared), start=spared):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate_share(step, steps, recipe.schedule)
        with guard.forward(inputs.device):
            loss = _training_loss(network, teacher, inputs, labels, recipe)
        optimizer.zero_grad(set_to_none=True)
        run_backward(loss)
        tuning.after_backward(network, step)
        optimizer.step()
        watch(step, end, loss)
        if on_step is not None:
            on_step(step + 1, steps)
        if checkpoint is not None and ((step + 1) % _epoch_steps(recipe, len(images)) == 0 or step + 1 == end):
            checkpoint.save(step + 1, network, optimizer, tuning)
    network.eval()
    return spared


class _Watch:
    """Stops a run that diverged or that takes too long."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline

    def __call__(self, step: int, steps: int, loss: Tensor) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeLimitError(f"its time was over at step {step + 1} of {steps}")
        if (step + 1) % _LOOK_EVERY == 0 or step + 1 == steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(f"the loss was {value} at step {step + 1} of {steps}; a lower lr may do")


def _remaining_batches(
    images: Images, recipe: Recipe, seed: int, steps: int, done: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of steps `done` to `steps`; every epoch has an order of its own.

    The first `done` steps were done before an interruption: the batches of an epoch that was begun are drawn again, so
    that the random state is the same, and passed over.
    """
    epoch, over = divmod(done, _epoch_steps(recipe, len(images)))
    batch = min(recipe.batch_size, len(images))
    while done < steps:
        drawn = images.batches(batch, seed=seed * 100_003 + epoch, augment=True, drop_last=True)
        for inputs, labels in itertools.islice(drawn, over, None):
            yield inputs, labels
            done += 1
            if done == steps:
                return
        epoch, over = epoch + 1, 0


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU that has it; float32 elsewhere."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _training_loss(
    network: nn.Module, teacher: nn.Module | None, inputs: Tensor, labels: Tensor, recipe: Recipe
) -> Tensor:
    """(1 − w) · cross-entropy + w · τ² · KL(teacher ‖ network) at temperature τ (Hinton et al., 2015)."""
    weight = recipe.distill_weight if teacher is not None else 0.0
    with mixed_precision(inputs.device):
        logits = class_scores(network(inputs)).float()
    loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if weight == 0:
        return loss
    with torch.no_grad(), mixed_precision(inputs.device):
        assert teacher is not None
        teacher_logits = teacher(inputs).float()
    soft, tau = functional.log_softmax(logits / recipe.temperature, 1), recipe.temperature
    divergence = functional.kl_div(
        soft, functional.log_softmax(teacher_logits / tau, 1), reduction="batchmean", log_target=True
    )
    return (1 - weight) * loss + weight * tau**2 * divergence


@torch.no_grad()
def recalibrate(network: nn.Module, images: Images, count: int, *, seed: int = 0, batch_size: int = 256) -> None:
    """Measure batch-norm statistics anew, as plain averages over `count` training images, augmented as in training.

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
    for inputs, _ in images.batches(min(batch_size, len(images)), seed=seed, augment=True, drop_last=True):
        with mixed_precision(inputs.device):
            network(inputs)
        seen += len(inputs)
        if seen >= count:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


@torch.no_grad()
def measure_accuracy(
    network: nn.Module, images: Images, *, count: int | None = None, batch_size: int = 500
) -> tuple[float, float]:
    """Top-1 accuracy (0 to 1) and mean cross-entropy (nats) of a network in evaluation mode, at full precision.

    Args:
        count: look at the first so many images only.
    """
    network.eval()
    if count is not None and count < len(images):
        images = images.subset(torch.arange(count))
    correct = loss = torch.zeros((), dtype=torch.float64)
    for inputs, labels in images.batches(batch_size):
        logits = network(inputs)
        correct = correct + (logits.argmax(1) == labels).sum().double().cpu()
        loss = loss + functional.cross_entropy(logits.float(), labels, reduction="sum").double().cpu()
    return float(correct) / len(images), float(loss) / len(images)
