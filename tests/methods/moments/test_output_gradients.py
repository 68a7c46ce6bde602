"""Second moments of gradients against the exact curvature, from autograd sample by sample and class by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scipy.linalg
import torch
from regression import Regression
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from methods.moments.output_gradients import measure_output_gradients, metric_root
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch
from models.tasks.outputs import Logits, Output, output_divergence

INPUTS, DRAWS = 6, 1500


class Segmentation(Regression):
    """The outputs are logits of every pixel."""

    def outputs(self, network: nn.Module, batch: Batch) -> list[Output]:
        return [Logits(network(batch[0]))]


class WithoutOutputs(Regression):
    has_outputs = False


class Classifier(nn.Module):
    """A convolution with an in-place activation right behind, one that is called twice, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.twice = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 4)
        self.unused = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.first(x))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.head(3 * x.mean((2, 3)))


def _dense_predictor() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.ConvTranspose2d(3, 3, 2, 2))


def _exact_moment(network: nn.Module, layer: nn.Module, x: Tensor, values: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """The mean over inputs of Σ g gᵀ, over the layer's calls and positions and over scalars.

    Args:
        values: outputs of one input -> scalars that are squared in the curvature, each with the root of its weight.
    """
    channel_dim = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
    total = torch.zeros(())
    shifts: list[Tensor] = []  # zeros, added to the layer's output in each of its calls

    def shift_output(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        shifts.append(torch.zeros_like(output, requires_grad=True))
        return output + shifts[-1]

    handle = layer.register_forward_hook(shift_output)
    for row in x.split(1):
        shifts.clear()
        for value in values(network(row)):
            for gradient in torch.autograd.grad(value, shifts, retain_graph=True):
                rows = gradient.movedim(channel_dim, -1).flatten(0, -2).double()
                total = total + rows.T @ rows
    handle.remove()
    return total / len(x)


def _scores_of_labels(scores: Tensor) -> list[Tensor]:
    """½ √(p / n) log p of every class of each of n rows: their squares make up a quarter of the Fisher information."""
    rows = scores.movedim(1, -1).flatten(0, -2)
    weights = (rows.detach().softmax(1) / len(rows)).sqrt() / 2
    return list((weights * rows.log_softmax(1)).flatten())


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(1)
    return Classifier().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(INPUTS, 2, 4, 4, generator=torch.Generator().manual_seed(2))


def _assert_near(measured: Tensor, exact: Tensor, share: float = 0.05) -> None:
    assert measured.dtype == torch.float64
    assert float((measured - exact).norm() / exact.norm()) < share


def test_of_classes_it_is_the_fisher_information(classifier: Classifier, images: Tensor) -> None:
    repeated = images.repeat(DRAWS // 10, 1, 1, 1)
    batches = [(repeated, torch.zeros(len(repeated), dtype=torch.long))] * 10
    measured = measure_output_gradients(classifier, ["first", "twice", "head", "unused"], batches, CLASSIFICATION)
    assert not measured.pop("unused").any()
    for name, moment in measured.items():
        _assert_near(moment, _exact_moment(classifier, classifier.get_submodule(name), images, _scores_of_labels))
    probabilities = classifier(images).detach().softmax(1).double()
    closed = torch.diag(probabilities.mean(0)) - probabilities.T @ probabilities / INPUTS
    _assert_near(measured["head"], closed / 4)


def test_it_foretells_the_drift_of_a_small_shift(classifier: Classifier, images: Tensor) -> None:
    repeated = images.repeat(DRAWS, 1, 1, 1)
    moment = measure_output_gradients(classifier, ["head"], [(repeated, None)], CLASSIFICATION)["head"]
    scores = classifier(images).detach().double()
    shift = 0.05 * torch.randn(scores.shape[1], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    drift = output_divergence([Logits(scores + shift)], [Logits(scores)])
    assert float(shift @ moment @ shift) / 2 == pytest.approx(float(drift), rel=0.05)


def test_of_pixels_it_is_the_mean_over_pixels(images: Tensor) -> None:
    torch.manual_seed(1)
    network = _dense_predictor().eval()
    repeated = images.repeat(100, 1, 1, 1)
    measured = measure_output_gradients(network, ["0", "2"], [(repeated, None)], Segmentation())
    for name, moment in measured.items():
        _assert_near(moment, _exact_moment(network, network.get_submodule(name), images, _scores_of_labels))


def test_of_other_outputs_it_is_the_curvature_of_the_relative_error(images: Tensor) -> None:
    torch.manual_seed(1)
    network = _dense_predictor().eval()
    variance = network(images).detach().var(correction=0)

    def weighted_values(outputs: Tensor) -> list[Tensor]:
        return list(((2 / (outputs.numel() * variance)).sqrt() * outputs).flatten())  # of Δ² / variance, its mean

    repeated = images.repeat(300, 1, 1, 1)
    measured = measure_output_gradients(network, ["0", "2"], [(repeated, None)] * 2, Regression())
    for name, moment in measured.items():
        _assert_near(moment, _exact_moment(network, network.get_submodule(name), images, weighted_values))


class CutOff(nn.Module):
    """The output depends on three layers; gradients arrive at the last of them alone. Another's output is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.detached, self.last, self.dropped = (nn.Conv2d(2, 2, 1) for _ in range(4))
        self.norm = nn.BatchNorm2d(2, track_running_stats=False)  # blind to the scale and the mean of the outputs

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.norm(self.frozen(x)).relu()
        self.dropped(x)
        return self.last(self.detached(x).relu().detach())


@pytest.mark.parametrize("objective", [Regression(), WithoutOutputs()])
def test_layers_without_gradients_are_told_from_those_without_a_say(images: Tensor, objective: Regression) -> None:
    torch.manual_seed(0)
    network = CutOff().eval()
    targets = torch.zeros(INPUTS, 2, 4, 4)
    names = ["frozen", "detached", "last", "dropped"]
    measured = measure_output_gradients(network, names, [(images, targets)] * 2, objective)
    assert set(measured) == {"last", "dropped"}
    assert measured["last"].any()
    assert not measured["dropped"].any()


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module, *, reentrant: bool) -> None:
        super().__init__()
        self.body, self.reentrant = body, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point() and torch.is_grad_enabled():
            x = x.requires_grad_()  # the reentrant form asks for it
        return checkpoint(self.body, x, use_reentrant=self.reentrant)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_are_measured_like_others(images: Tensor, reentrant: bool) -> None:
    torch.manual_seed(1)
    body = _dense_predictor().eval()
    measured = measure_output_gradients(body, ["0", "2"], [(images, None)], Regression())
    network = Checkpointed(body, reentrant=reentrant)
    again = measure_output_gradients(network, ["body.0", "body.2"], [(images.clone(), None)], Regression())
    for name, moment in measured.items():
        torch.testing.assert_close(again[f"body.{name}"], moment)


def test_without_outputs_it_is_the_tasks_own_loss(images: Tensor) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    targets = torch.randn(INPUTS, 3)
    measured = measure_output_gradients(network, ["1"], [(images, targets)], WithoutOutputs())["1"]
    gradients = (2 / 3 * (network(images) - targets)).detach().double()  # of the mean over outputs, for each input
    torch.testing.assert_close(measured, gradients.T @ gradients / INPUTS, rtol=1e-4, atol=1e-6)


def test_frozen_networks_are_measured_alike(classifier: Classifier, images: Tensor) -> None:
    batches = [(images, torch.zeros(INPUTS, dtype=torch.long))]
    measured = measure_output_gradients(classifier, ["first", "head"], batches, CLASSIFICATION)
    again = measure_output_gradients(classifier.requires_grad_(False), ["first", "head"], batches, CLASSIFICATION)
    for name, moment in measured.items():
        assert torch.equal(again[name], moment)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_random_state_is_left_alone(classifier: Classifier, images: Tensor) -> None:
    state = torch.get_rng_state()
    batches = [(images, torch.zeros(INPUTS, dtype=torch.long))]
    measure_output_gradients(classifier, ["head"], batches, CLASSIFICATION)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e6])
def test_root_of_a_metric(size: float) -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * size**0.5
    moment = rows.T @ rows  # of rank 3
    root, inverse = metric_root(moment, 0.01)
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(5)
    torch.testing.assert_close(root / size**0.5, torch.from_numpy(scipy.linalg.cholesky((damped / size).numpy())))
    torch.testing.assert_close(root.mT @ root, damped)
    torch.testing.assert_close(root @ inverse, torch.eye(5, dtype=torch.float64))


def test_root_of_nothing_is_the_identity() -> None:
    for matrix in metric_root(torch.zeros(4, 4, dtype=torch.float64), 0.01):
        assert torch.equal(matrix, torch.eye(4, dtype=torch.float64))
