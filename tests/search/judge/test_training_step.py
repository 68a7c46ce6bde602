"""Steps from buffers and recorded ones against plain ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operator_graph import OperatorGraph, replace_cuda_graphs
from step_samples import CPU, RECIPE, STEPS, Batch, batches, small_network
from torch import Tensor, nn

from methods.base import Tuning
from methods.joint_tuning import JointTuning
from models.execution.host_reads import HostReads
from models.tasks.classification import CLASSIFICATION, Classification
from models.tasks.outputs import Output
from search.judge.checkpoint import Checkpoint
from search.judge.stages import Stage, StageLoss
from search.judge.training_step import BufferedStep, Losses, PlainStep, RecordedStep, make_step


class TwoRates(Tuning):
    """The last layer learns at a tenth of the rate and without weight decay."""

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        *first, last = network.children()
        return [
            {"params": [p for layer in first for p in layer.parameters()]},
            {"params": list(last.parameters()), "lr": RECIPE.lr / 10, "weight_decay": 0.0},
        ]


def step_of(kind: type[PlainStep], network: nn.Module, tuning: Tuning) -> PlainStep:
    dense = small_network().eval()
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, (Stage("2"), Stage("5"))))
    optimizer = torch.optim.SGD(
        tuning.parameter_groups(network), lr=RECIPE.lr, momentum=0.9, weight_decay=5e-4, nesterov=True,
        fused=kind is not PlainStep,
    )  # fmt: skip
    return kind(network, losses, tuning, optimizer, CPU)


def trained(kind: type[PlainStep], data: list[Batch]) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and losses after a fine-tune whose rate falls."""
    network = copy.deepcopy(small_network()).train()
    with torch.no_grad():
        network[0].weight.mul_(0.5)  # not the dense one's
    step = step_of(kind, network, TwoRates())
    losses = [float(step(batch, number, 1 - number / len(data))) for number, batch in enumerate(data)]
    return network.state_dict(), losses


def assert_alike(kind: type[PlainStep], data: list[Batch]) -> None:
    weights, losses = trained(kind, data)
    plain_weights, plain_losses = trained(PlainStep, data)
    torch.testing.assert_close(losses, plain_losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights, plain_weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 5)], ids=["equal batches", "a smaller batch now and then"])
def test_steps_from_buffers_are_plain_steps(sizes: tuple[int, ...]) -> None:
    assert_alike(BufferedStep, batches(sizes=sizes))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[OperatorGraph]:
    """Those that are recorded, in the place of CUDA's."""
    return replace_cuda_graphs(monkeypatch)


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 5)], ids=["equal batches", "a smaller batch now and then"])
def test_recorded_steps_are_plain_steps(graphs: list[OperatorGraph], sizes: tuple[int, ...]) -> None:
    assert_alike(RecordedStep, batches(sizes=sizes))
    (graph,) = graphs
    # Three are run first, so that kernels are chosen and momentum is there: 8 8 8, or 8 8 (5 8) 8. What differs from
    # the batch before does not count, so that of the second kind (5 8) is run once more.
    run = 5 if 5 in sizes else 3
    assert graph.replays == (sizes * STEPS)[:STEPS].count(8) - run


@pytest.mark.parametrize("kind", [BufferedStep, RecordedStep])
def test_steps_go_on_from_a_checkpoint(graphs: list[OperatorGraph], kind: type[PlainStep], tmp_path: Path) -> None:
    """The rate falls on: an optimizer whose state was loaded has copies of the tensors that it was made with."""
    data, half = batches(), STEPS // 2
    kept = Checkpoint(tmp_path / "half.safetensors")
    for part in (data[:half], data[half:]):
        network = small_network().train()
        step = step_of(kind, network, tuning := TwoRates())
        done = kept.load(network, step.optimizer, tuning, max_step=STEPS)
        for number, batch in enumerate(part, start=done):
            step(batch, number, 1 - number / STEPS)
        kept.save(half, network, step.optimizer, tuning)
    plain = small_network().train()
    plain_step = step_of(PlainStep, plain, TwoRates())
    for number, batch in enumerate(data):
        plain_step(batch, number, 1 - number / STEPS)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


class Penalised(nn.Module):
    """A network whose forward pass looks at a number, in training alone."""

    def __init__(self, look: Any) -> None:
        super().__init__()
        self.layers, self.look = small_network(), look

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.look(x)


LOOKS = {
    "aten::_local_scalar_dense": lambda x: 2.0 if x.mean().item() > -9 else 1.0,
    "aten::nonzero": lambda x: 1.0 if len(x.nonzero()) else 2.0,
    "aten::masked_select": lambda x: x.masked_select(x > 0).mean(),
    "aten::index": lambda x: x[x > 0].mean(),
    "aten::equal": lambda x: 2.0 if torch.equal(x, x + 1) else 1.0,
}


@pytest.mark.parametrize("operator", LOOKS)
def test_a_step_that_reads_a_number_is_not_recorded(graphs: list[OperatorGraph], operator: str) -> None:
    network = Penalised(LOOKS[operator]).train()
    dense = small_network().eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, ()))
    step = RecordedStep(network, losses, Tuning(), optimizer, CPU)
    for number, batch in enumerate(batches(6)):
        assert torch.isfinite(step(batch, number, 1.0))
    assert not graphs
    assert step.plain_because == f"it waits for the device in {operator}"


def test_what_cannot_be_recorded_goes_on_plainly(graphs: list[OperatorGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is read on the way behind all operators that HostReads knows: the recording fails."""
    monkeypatch.setattr(HostReads, "operators", property(lambda self: set(), lambda self, value: None), raising=False)
    network = Penalised(LOOKS["aten::_local_scalar_dense"]).train()
    twin = copy.deepcopy(network)
    dense = small_network().eval()

    def step_for(kind: type[PlainStep], trained_network: nn.Module) -> PlainStep:
        optimizer = torch.optim.SGD(trained_network.parameters(), lr=0.1, momentum=0.9, fused=True)
        losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, trained_network, ()))
        return kind(trained_network, losses, Tuning(), optimizer, CPU)

    step, plain = step_for(RecordedStep, network), step_for(PlainStep, twin)
    for number, batch in enumerate(batches(6)):
        step(batch, number, 1.0)
        plain(batch, number, 1.0)
    assert "not permitted when stream is capturing" in str(step.plain_because)
    torch.testing.assert_close(network.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: float(torch.rand(()))])
def test_a_step_that_draws_on_the_host_is_not_recorded(
    graphs: list[OperatorGraph], monkeypatch: pytest.MonkeyPatch, draw: Callable[[], float]
) -> None:
    monkeypatch.setattr(HostReads, "operators", property(lambda self: set(), lambda self, value: None), raising=False)
    network, dense = Penalised(lambda x: 1 + draw()).train(), small_network().eval()
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, ()))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    step = RecordedStep(network, losses, Tuning(), optimizer, CPU)
    for number, batch in enumerate(batches(6)):
        step(batch, number, 1.0)
    assert not graphs
    assert step.plain_because == "its code draws random numbers on the host"


class Named(Classification):
    """Of batches with a name."""

    def loss_and_outputs(self, network: nn.Module, batch: Any, **options: Any) -> tuple[Tensor, list[Output]]:
        return super().loss_and_outputs(network, batch[:2], **options)


@pytest.mark.parametrize(
    ("name", "recorded"), [(lambda number: "same", True), (str, False), (lambda number: number / 2, False)]
)
def test_batches_with_values_that_are_no_tensors(
    graphs: list[OperatorGraph], name: Callable[[int], object], recorded: bool
) -> None:
    """A graph has the values that it was recorded with; of a first batch of another size no more is seen."""
    network, plain = small_network().train(), small_network().train()
    odd = (torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2]))
    steps = []
    for kind, trained_network in ((RecordedStep, network), (PlainStep, plain)):
        dense = small_network().eval()
        losses = Losses(Named(), RECIPE, dense, StageLoss(dense, trained_network, ()))
        optimizer = torch.optim.SGD(trained_network.parameters(), lr=0.1, momentum=0.9, fused=True)
        steps.append(kind(trained_network, losses, Tuning(), optimizer, CPU))
        for number, batch in enumerate([odd, *batches(12)]):
            steps[-1]((*batch, name(number)), number, 1.0)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    assert (steps[0].plain_because is None) == recorded
    assert sum(graph.replays for graph in graphs) == (9 if recorded else 0)


def test_hooks_are_told() -> None:
    class Hooked(Tuning):
        def after_backward(self, network: nn.Module, step: int) -> None: ...

    assert not Tuning().has_hook
    assert not JointTuning({"a": Tuning(), "b": TwoRates()}).has_hook
    assert Hooked().has_hook
    assert JointTuning({"a": Tuning(), "b": Hooked()}).has_hook


def test_the_cpu_takes_plain_steps() -> None:
    network = small_network()
    losses = Losses(CLASSIFICATION, RECIPE, None, StageLoss(network, network, ()))
    step = make_step(network, losses, Tuning(), CPU)
    assert type(step) is PlainStep
    assert step.optimizer.defaults["lr"] == RECIPE.lr
