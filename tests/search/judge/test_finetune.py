"""Training against closed forms and a loop written again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.base import Tuning
from models.data.training_batches import TrainingBatches
from models.tasks.classification import CLASSIFICATION
from models.tasks.pictures import measure_accuracy
from search.judge.finetune import (
    DivergedError,
    TimeLimitError,
    count_steps,
    finetune,
    learning_rate_share,
    recalibrate,
)
from search.recipe import Recipe

PLAIN = Recipe(epochs=2, batch_size=8, lr=0.1, distill_weight=0, momentum=0.9, weight_decay=0.01)


class Points(TrainingBatches):
    """Random images that record how they were asked for; nothing is augmented."""

    def __init__(self, count: int = 24, positions: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(count, 2, 4, 4, generator=generator)
        self.y = torch.randint(3, (count,), generator=generator)
        self.positions = torch.arange(count) if positions is None else positions
        self.asked: list[dict[str, object]] = []

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Tensor:
        return self.y[self.positions]

    def subset(self, indices: Tensor) -> Points:
        part = copy.copy(self)
        part.positions = self.positions[indices]
        return part

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked.append({"batch_size": batch_size, "seed": seed, "augment": augment, "drop_last": drop_last})
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for start in range(0, len(self), batch_size):
            chosen = self.positions[order[start : start + batch_size]]
            if drop_last and start and len(chosen) < batch_size:
                return
            yield self.x[chosen], self.y[chosen]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3)
    ).eval()


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).eval()


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_one_cycle_in_closed_form(steps: int) -> None:
    for step in range(steps):
        t = (step + 0.5) / steps
        expected = 0.04 + 0.96 * t / 0.3 if t < 0.3 else math.cos(math.pi / 2 * (t - 0.3) / 0.7) ** 2
        assert learning_rate_share(step, steps, "one-cycle") == pytest.approx(expected)
        assert learning_rate_share(step, steps, "cosine") == pytest.approx(math.cos(math.pi / 2 * t) ** 2)
        assert 0 < learning_rate_share(step, steps, "one-cycle") <= 1


def test_the_peak_is_reached_once_and_the_mean_is_known() -> None:
    values = [learning_rate_share(step, 10_000, "one-cycle") for step in range(10_000)]
    assert max(values) == pytest.approx(1, abs=1e-3)
    # the integral: a ramp from 1/25 to 1 over 0.3, then half of the rest
    assert sum(values) / len(values) == pytest.approx(0.3 * 1.04 / 2 + 0.7 / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("epochs", "batch", "images", "steps"),
    [(1, 8, 24, 3), (1, 8, 31, 3), (2, 8, 31, 6), (0.5, 8, 24, 2), (0.1, 8, 24, 1), (0, 8, 24, 0), (1, 64, 24, 1),
     (3, 64, 24, 3), (1, 128, 45_000, 351)],
)  # fmt: skip
def test_steps(epochs: float, batch: int, images: int, steps: int) -> None:
    assert count_steps(Recipe(epochs=epochs, batch_size=batch), Points(images)) == steps


def by_hand(model: nn.Module, images: Points, recipe: Recipe, seed: int, teacher: nn.Module | None = None) -> None:
    """SGD with Nesterov momentum and distillation, every formula written out."""
    total = math.ceil(recipe.epochs * (len(images) // recipe.batch_size))
    speed = [torch.zeros_like(p) for p in model.parameters()]
    step = 0
    for epoch in range(math.ceil(recipe.epochs)):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        for start in range(0, len(images) - recipe.batch_size + 1, recipe.batch_size):
            if step == total:
                return
            chosen = order[start : start + recipe.batch_size]
            logits, labels = model(images.x[chosen]), images.y[chosen]
            loss = loss_by_hand(logits, labels, None if teacher is None else teacher(images.x[chosen]).detach(), recipe)
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            lr = recipe.lr * learning_rate_share(step, total, recipe.schedule)
            with torch.no_grad():
                for p, slope, v in zip(model.parameters(), slopes, speed, strict=True):
                    slope = slope + recipe.weight_decay * p
                    v.mul_(recipe.momentum).add_(slope)
                    p -= lr * (slope + recipe.momentum * v)
            step += 1


def loss_by_hand(logits: Tensor, labels: Tensor, wanted: Tensor | None, recipe: Recipe) -> Tensor:
    rows = []
    for i, label in enumerate(labels.tolist()):
        q = logits[i] - logits[i].exp().sum().log()
        smooth = recipe.label_smoothing
        row = -(1 - smooth) * q[label] - smooth * q.mean()
        if wanted is not None:
            tau, w = recipe.temperature, recipe.distill_weight
            p = (wanted[i] / tau).exp() / (wanted[i] / tau).exp().sum()
            own = (logits[i] / tau).exp() / (logits[i] / tau).exp().sum()
            row = (1 - w) * row + w * tau * tau * (p * (p / own).log()).sum()
        rows.append(row)
    return torch.stack(rows).mean()


@pytest.mark.parametrize(
    "changes",
    [{}, {"schedule": "cosine"}, {"distill_weight": 0.7, "temperature": 3.0}, {"label_smoothing": 0.1},
     {"distill_weight": 1.0}, {"momentum": 0.0}, {"epochs": 1.5}],
)  # fmt: skip
def test_equals_a_loop_written_out(changes: dict[str, object]) -> None:
    recipe, images = PLAIN.model_copy(update=changes), Points()
    teacher = linear(9) if recipe.distill_weight else None
    found, expected = linear(), linear()
    finetune(found, CLASSIFICATION, images, recipe, seed=3, teacher=teacher)
    by_hand(expected, images, recipe, 3, teacher)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not torch.equal(next(found.parameters()), next(linear().parameters()))
    assert {(a["augment"], a["drop_last"]) for a in images.asked} == {(True, True)}


def convolutional(seed: int = 0) -> nn.Module:
    """With one stage: what its ReLU returns."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_features_are_followed_too(weight: float) -> None:
    """One step of SGD without momentum, its loss written out."""
    images = Points(8)
    recipe = PLAIN.model_copy(
        update={"epochs": 1.0, "momentum": 0.0, "weight_decay": 0.0, "distill_weight": 0.7, "distill_features": weight}
    )
    teacher, trained, expected = convolutional(9), convolutional(), convolutional()
    finetune(trained, CLASSIFICATION, images, recipe, seed=3, teacher=teacher)
    assert len(images.asked) == (2 if weight else 1)  # channels are recognised on a batch of its own
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3 * 100_003))
    x, labels = images.x[order], images.y[order]
    features, wanted = expected[:2](x), teacher[:2](x).detach()  # type: ignore[index, operator]
    error = sum((a - b) ** 2 for a, b in zip(features.flatten(), wanted.flatten(), strict=True)) / features.numel()
    spread = sum((b - wanted.mean()) ** 2 for b in wanted.flatten()) / wanted.numel()
    loss = loss_by_hand(expected(x), labels, teacher(x).detach(), recipe) + weight * (1 + error / spread).log()
    rate = recipe.lr * learning_rate_share(0, 1, recipe.schedule)
    slopes = torch.autograd.grad(loss, list(expected.parameters()))
    for own, before, slope in zip(trained.parameters(), expected.parameters(), slopes, strict=True):
        assert torch.allclose(own, before - rate * slope, atol=1e-6)
    assert not any(module._forward_hooks for model in (teacher, trained) for module in model.modules())


class Recomputed(nn.Sequential):
    """Its layers run once more in the backward pass, if `checkpointed`."""

    checkpointed = True

    def forward(self, x: Tensor) -> Tensor:
        run = super().forward
        return checkpoint(run, x, use_reentrant=False) if self.checkpointed else run(x)  # type: ignore[no-any-return]


def test_features_of_checkpointed_parts_are_followed_in_every_step() -> None:
    recipe = PLAIN.model_copy(update={"distill_weight": 0.7, "distill_features": 2.0})
    trained = []
    for checkpointed in (True, False):
        network = Recomputed(*convolutional())
        network.checkpointed = checkpointed
        finetune(network, CLASSIFICATION, Points(), recipe, seed=3, teacher=Recomputed(*convolutional(9)).eval())
        trained.append(network)
    for own, expected in zip(*(network.parameters() for network in trained), strict=True):
        torch.testing.assert_close(own, expected)


def test_without_a_teacher_there_is_no_distillation() -> None:
    found, expected = linear(), linear()
    finetune(found, CLASSIFICATION, Points(), PLAIN.model_copy(update={"distill_weight": 0.9}), seed=3)
    by_hand(expected, Points(), PLAIN, 3)
    assert torch.allclose(found[1].weight, expected[1].weight, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("other_seed", [False, True])
def test_same_seed_same_weights_bit_for_bit(other_seed: bool) -> None:
    results = []
    for run in range(2):
        model = network()
        torch.manual_seed(run)  # whatever the state, dropout included
        finetune(model, CLASSIFICATION, Points(), PLAIN, seed=run if other_seed else 4)
        results.append(model.state_dict())
    same = [torch.equal(results[0][name], results[1][name]) for name in results[0]]
    assert all(same) != other_seed


def test_teacher_and_mode_are_left_alone() -> None:
    teacher, model = network(1), network()
    before = copy.deepcopy(teacher.state_dict())
    finetune(model, CLASSIFICATION, Points(), PLAIN.model_copy(update={"distill_weight": 0.5}), seed=0, teacher=teacher)
    assert all(torch.equal(teacher.state_dict()[name], before[name]) for name in before)
    assert not teacher.training
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_steps_are_told() -> None:
    told: list[tuple[int, int]] = []
    finetune(linear(), CLASSIFICATION, Points(), PLAIN, seed=0, on_step=lambda *pair: told.append(pair))
    assert told == [(step, 6) for step in range(1, 7)]


def test_hooks_of_a_method() -> None:
    """Its groups keep their own rates and momenta, which follow the schedule; its hook sees every step's gradients."""
    seen: list[tuple[int, bool]] = []

    class Half(Tuning):
        def parameter_groups(self, network: nn.Module) -> list[dict[str, object]]:
            self.groups = [{"params": [network[1].weight], "lr": 0.02}, {"params": [network[1].bias], "momentum": 0.5}]  # type: ignore[index]
            return self.groups

        def after_backward(self, network: nn.Module, step: int) -> None:
            seen.append((step, network[1].weight.grad is not None))  # type: ignore[index]
            network[1].weight.grad.zero_()  # type: ignore[index, union-attr]

    model = linear()
    before = model[1].weight.detach().clone()  # type: ignore[index]
    finetune(model, CLASSIFICATION, Points(), PLAIN.model_copy(update={"weight_decay": 0.0}), seed=0, tuning=Half())
    assert seen == [(step, True) for step in range(6)]
    assert torch.equal(model[1].weight, before)  # type: ignore[index]
    assert not torch.equal(model[1].bias, linear()[1].bias)  # type: ignore[index]


def test_divergence_is_noticed() -> None:
    with pytest.raises(DivergedError, match="lower lr"):
        finetune(linear(), CLASSIFICATION, Points(), PLAIN.model_copy(update={"lr": 1e30, "epochs": 5.0}), seed=0)


def test_a_passed_deadline_stops_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitError, match="step 1 of 6"):
        finetune(linear(), CLASSIFICATION, Points(), PLAIN, seed=0, deadline=start - 1)
    finetune(linear(), CLASSIFICATION, Points(), PLAIN, seed=0, deadline=start + 1000)


def test_recalibration_by_hand() -> None:
    """Mean over batches of each batch's mean and unbiased variance, on augmented images, none of it trained."""
    model, images = network(), Points(24)
    momentum = model[1].momentum  # type: ignore[index]
    weights = [parameter.clone() for parameter in model.parameters()]
    recalibrate(model, CLASSIFICATION, images, 16, seed=2, batch_size=8)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        parts = [model[0](images.x[order[i : i + 8]]).transpose(0, 1).flatten(1) for i in (0, 8)]  # type: ignore[index]
    means = torch.stack([part.mean(1) for part in parts]).mean(0)
    variances = torch.stack([part.var(1, unbiased=True) for part in parts]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-6)  # type: ignore[index]
    assert torch.allclose(model[1].running_var, variances, atol=1e-6)  # type: ignore[index]
    assert model[1].momentum == momentum  # type: ignore[index]
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
    assert images.asked[0]["augment"] is True


def test_recalibration_can_be_off() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, CLASSIFICATION, Points(), 0)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    recalibrate(linear(), CLASSIFICATION, Points(), 100)


@pytest.mark.parametrize("count", [None, 1, 7, 24, 100])
@pytest.mark.parametrize("batch_size", [1, 5, 500])
def test_judge_counts(count: int | None, batch_size: int) -> None:
    model, images = linear(), Points(24)
    used = 24 if count is None else min(count, 24)
    right, total = 0, 0.0
    for i in range(used):
        scores = model(images.x[i : i + 1])[0].tolist()
        label = int(images.y[i])
        right += scores.index(max(scores)) == label
        total += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    accuracy, loss, _ = measure_accuracy(model.train(), images, count=count, batch_size=batch_size)
    assert accuracy == right / used
    assert loss == pytest.approx(total / used, abs=1e-6)
