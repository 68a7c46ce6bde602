"""A user's task as the engine asks for it: which passes are made, in which modes, and what is shared."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import denoising
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from models.errors import UserError
from models.task import Task
from models.task_config import TaskConfig
from models.tasks.build import give_task
from models.tasks.given import GivenTask
from models.tasks.load import load_task
from models.tasks.outputs import Logits

BATCH = [torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)]


class Counting(nn.Module):
    """A detector's manners: in training it returns its loss and wants targets, in evaluation what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.body = denoising.Denoiser()
        self.dropout = nn.Dropout(0.5)
        self.modes: list[tuple[bool, bool, bool]] = []

    def forward(self, images: Tensor, clean: Tensor | None = None) -> Any:
        self.modes.append((self.training, self.body.first_norm.training, self.dropout.training))
        seen = self.dropout(self.body(images))
        if self.training:
            assert clean is not None, "targets are needed in training"
            return {"loss": functional.mse_loss(seen, clean)}
        return seen


def loaded(**changes: Any) -> GivenTask:
    task = denoising.build(**({"network": denoising.Denoiser()} | changes))
    return load_task(TaskConfig(network="given", task=give_task(task), data="own"), "cpu")


def detecting(**changes: Any) -> GivenTask:
    return loaded(
        network=Counting(),
        loss=lambda network, batch: network(batch[0], batch[1])["loss"],
        score=lambda network, batches: {"MAE": 0.5, "PSNR": 9.0},
        **changes,
    )


def test_a_loss_and_outputs_of_one_batch_share_a_forward_pass() -> None:
    calls = itertools.count()

    class Counted(denoising.Denoiser):
        def forward(self, images: Tensor) -> Tensor:
            next(calls)
            return super().forward(images)

    task = loaded(network=Counted(), outputs=lambda network, batch: [Logits(network(batch[0])), network(batch[1])])
    before = next(calls)
    loss, outputs = task.objective.loss_and_outputs(task.network, BATCH)
    assert next(calls) - before == 3  # itself, and one for either half of the batch
    with torch.no_grad():
        expected = [task.network(half) for half in BATCH]
    assert torch.equal(outputs[0].scores, expected[0])
    assert torch.equal(outputs[1], expected[1])
    assert loss.item() == pytest.approx(float((expected[0] - BATCH[1]).abs().mean()))
    task.network(BATCH[0])
    task.network(BATCH[0])
    assert next(calls) - before == 8  # nothing is remembered afterwards


class Brightened(denoising.Denoiser):
    """Counts its passes, and writes into its input if `writes`."""

    def __init__(self, *, writes: bool) -> None:
        super().__init__()
        self.writes, self.passes = writes, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(images.add_(1) if self.writes else images + 1)


@pytest.mark.parametrize(("writes", "passes"), [(False, 1), (True, 2)])
def test_inputs_that_are_made_anew_but_equal_share_a_forward_pass(writes: bool, passes: int) -> None:
    task = loaded(
        network=Brightened(writes=writes),
        loss=lambda network, batch: network(2 * batch[0]).square().mean(),
        outputs=lambda network, batch: network(2 * batch[0]),
    )
    with torch.no_grad():
        expected = task.network(2 * BATCH[0])
    task.network.passes = 0
    _, (outputs,) = task.objective.loss_and_outputs(task.network, BATCH)
    assert task.network.passes == passes
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("change", [lambda x: x + 1e-6, lambda x: x[:2], lambda x: x.double(), lambda x: [x]])
def test_other_inputs_have_a_pass_of_their_own(change: Any) -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.passes = nn.Parameter(torch.ones(())), 0

        def forward(self, images: Any) -> Tensor:
            self.passes += 1
            return self.scale * (images[0] if isinstance(images, list) else images)

    task = loaded(
        network=Counted(),
        loss=lambda network, batch: network(batch[0]).square().mean(),
        outputs=lambda network, batch: network(change(batch[0])),
    )
    task.network.passes = 0
    task.objective.loss_and_outputs(task.network, BATCH)
    assert task.network.passes == 2


def test_losses_of_detectors_are_had_with_layers_in_evaluation() -> None:
    task = detecting()
    network = task.network
    network.modes.clear()
    task.objective.calibration_loss(network, BATCH).backward()
    task.objective.forward(network.eval(), BATCH)
    network.train()
    network.dropout.eval()
    task.objective.forward(network, BATCH)
    assert network.modes == [(True, False, False), (True, False, False), (True, True, False)]
    assert (network.training, network.dropout.training) == (True, False)
    assert network.body.first.weight.grad is not None


def test_with_outputs_a_forward_pass_is_that_of_the_outputs() -> None:
    task = detecting(outputs=lambda network, batch: network.body(batch[0]))
    task.network.modes.clear()
    task.objective.forward(task.network, BATCH)
    assert task.network.modes == []


def test_without_outputs_there_are_none() -> None:
    assert not loaded().objective.has_outputs
    assert loaded(outputs=lambda network, batch: network(batch[0])).objective.has_outputs

    class WithOutputs(Task):
        network, example, metrics = denoising.Denoiser(), torch.zeros(2, 1, 8, 8), ["MAE"]

        def training_batches(self, epoch: int, seed: int) -> Any:
            return [BATCH]

        def loss(self, network: nn.Module, batch: Any) -> Tensor:
            return denoising.loss(network, batch)

        def score(self, network: nn.Module, split: str) -> dict[str, float]:
            return {"MAE": 1.0, "PSNR": 9.0}

        def outputs(self, network: nn.Module, batch: Any) -> Any:
            return {"clean": network(batch[0]).double(), "name": "x"}

    task = load_task(TaskConfig(network="given", task=give_task(WithOutputs()), data="own"), "cpu")
    assert task.objective.has_outputs
    assert [output.dtype for output in task.objective.outputs(task.network, BATCH)] == [torch.float32]


def test_a_scalar_of_any_shape_is_a_loss() -> None:
    task = loaded(loss=lambda network, batch: denoising.loss(network, batch).reshape(1, 1))
    assert task.objective.loss(task.network, BATCH).shape == ()


@pytest.mark.parametrize("takes_count", [True, False])
def test_a_scan_asks_for_the_first_inputs_where_the_score_can_be_of_them(takes_count: bool) -> None:
    asked: list[Any] = []

    def score(network: nn.Module, split: str, count: int | None = None) -> dict[str, float]:
        asked.append(count)
        return {"MAE": 1.0, "PSNR": 9.0}

    task = loaded()
    task.task.score = score if takes_count else lambda network, split: score(network, split)  # type: ignore
    measured = task.score(task.network, "search", 5)
    assert asked == [5 if takes_count else None]
    assert measured.inputs == (5 if takes_count else task.count_inputs("search"))


def test_loaders_give_the_first_inputs_and_every_network_the_same() -> None:
    seen: list[Tensor] = []

    def score(network: nn.Module, batches: Any) -> dict[str, float]:
        seen.append(torch.cat([batch[0] for batch in batches]))
        return {"MAE": 1.0, "PSNR": 9.0}

    data = TensorDataset(torch.arange(40.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8), torch.zeros(40, 1, 8, 8))
    task = loaded(search=DataLoader(data, 4, shuffle=True), score=score)
    for count in (None, None, 10):
        task.score(copy.deepcopy(task.network), "search", count)
    everything, again, few = seen
    assert torch.equal(everything, again)
    assert sorted(everything[:, 0, 0, 0].tolist()) == list(range(40))
    assert torch.equal(few, everything[:12]), "as many batches as hold ten inputs"


@pytest.mark.parametrize(("value", "refused"), [(1.00000012, False), (-0.2, False), (72.2, True)])
def test_percentages_are_given_as_shares(value: float, refused: bool) -> None:
    task = loaded(metrics="IoU, %", score=lambda network, batches: {"IoU": value})
    if refused:
        with pytest.raises(UserError, match=r"gives IoU as 72.2, while its unit is %; give a share from 0 to 1"):
            task.score(task.network, "search")
    else:
        assert task.score(task.network, "search").metrics == {"IoU": value}
