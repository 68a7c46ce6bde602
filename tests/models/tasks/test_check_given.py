"""Tasks of users that cannot work are refused with one sentence, before any candidate is paid for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import denoising
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from models.errors import UserError
from models.task import Task
from models.task_config import TaskConfig
from models.tasks.build import give_task
from models.tasks.load import check_trainable, load_task
from models.tasks.loaded import LoadedTask
from models.tasks.overlap import check_overlap

CPU = torch.device("cpu")
NETWORK = denoising.Denoiser().eval()
IMAGES = denoising.noisy_images(40, 3)


def loaded(**changes: Any) -> LoadedTask:
    """The denoising task with other arguments, untrained."""
    task = denoising.build(**({"network": NETWORK} | changes))
    return load_task(TaskConfig(network="given", task=give_task(task), data="own"), CPU)


def checked(test: bool = True, **changes: Any) -> LoadedTask:
    """As the engine does it: loaded, then tried."""
    task = loaded(**changes)
    check_trainable(task)
    task.check(test=test)
    return task


def score_as(**changes: Any) -> Callable[..., Any]:
    """The score with other values; None leaves one out."""

    def changed(network: nn.Module, batches: Any) -> Mapping[str, float]:
        values = {**denoising.score(network, batches), **changes}
        return {name: value for name, value in values.items() if value is not None}

    return changed


def broken_score(network: nn.Module, batches: Any) -> Mapping[str, float]:
    raise LookupError("no annotations")


def training_score(network: nn.Module, batches: Any) -> Mapping[str, float]:
    network.train()
    return denoising.score(network, batches)


def scaling_score(network: nn.Module, batches: Any) -> Mapping[str, float]:
    network.first.weight.data.mul_(2)  # unseen by the tensor's version
    return denoising.score(network, batches)


def shifting_score(network: nn.Module, batches: Any) -> Mapping[str, float]:
    with torch.no_grad():
        network.first.bias.add_(1)
    return denoising.score(network, batches)


def freezing_loss(network: nn.Module, batch: Any) -> torch.Tensor:
    network.eval()
    return denoising.loss(network, batch)


def gpu_loss(network: nn.Module, batch: Any) -> torch.Tensor:
    return denoising.loss(network, batch) + torch.zeros((), device="cuda")


def test_a_sound_task_passes_and_its_network_stays() -> None:
    before = {name: tensor.clone() for name, tensor in NETWORK.state_dict().items()}
    task = checked(outputs=lambda network, batch: network(batch[0]))
    assert task.objective.has_outputs
    after = task.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(module.training for module in task.network.modules())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": score_as(MAE=float("nan"))}, "gives MAE as nan"),
        ({"score": score_as(PSNR=float("inf"))}, "gives PSNR as inf"),
        ({"score": score_as(MAE=None)}, "lacks MAE; it has PSNR"),
        ({"score": lambda network, batches: 0.5}, "score is a float; return a dictionary with MAE, PSNR"),
        ({"score": score_as(MAE="good")}, "gives MAE as 'good'"),
        ({"score": score_as(MAE=torch.ones(3))}, "gives MAE as tensor([1., 1., 1.]); give a number"),
        ({"score": broken_score}, "score fails on the search split: LookupError: no annotations (line"),
        ({"score": training_score}, "score changes the network or its mode"),
        ({"score": scaling_score}, "score changes the network or its mode"),
        ({"score": shifting_score}, "score changes the network or its mode"),
        ({"loss": lambda network, batch: network(batch[0])}, "loss is a tensor of shape (16, 1, 8, 8); return"),
        ({"loss": lambda network, batch: 0.5}, "loss is float; return a scalar"),
        ({"loss": lambda network, batch: denoising.loss(network, batch) * float("nan")}, "loss is nan on the first"),
        ({"loss": lambda network, batch: denoising.loss(network, batch).detach()}, "takes a gradient"),
        ({"loss": lambda network, batch: {}["box"]}, "KeyError: 'box'"),
        ({"loss": freezing_loss}, "loss changes the network or its mode"),
        ({"train": []}, "training batches are empty"),
        ({"train": 7}, "training batches cannot be drawn"),
        ({"outputs": lambda network, batch: None}, "outputs hold no tensor"),
        ({"outputs": lambda network, batch: network(batch[0]) / 0}, "outputs are not all finite"),
        ({"outputs": lambda network, batch: batch["image"]}, "outputs fail: TypeError"),
        ({"metrics": []}, "metrics are empty"),
        ({"metrics": ["MAE", 3]}, "metrics hold a int"),
        ({"metrics": "MAE, lower is beter"}, "direction 'lower is beter' is not known; write lower is better"),
        ({"metrics": ["MAE", "MAE, mm"]}, "two metrics called 'MAE'"),
        ({"metrics": ", mm"}, "is not understood"),
        ({"example": torch.zeros(2, 3, 8, 8)}, "does not take the task's example"),
        ({"network": nn.Flatten()}, "no parameters"),
        ({"network": "resnet20"}, "network is a str"),
    ],
)  # fmt: skip
def test_faults_are_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        checked(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize("changes", [{"loss": gpu_loss}, {"score": lambda network, _: {"MAE": torch.ones(1).cuda()}}])
def test_a_gpu_that_is_not_there_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="it needs a GPU and there is none here; use the task's `device`"):
        checked(**changes)


def test_the_test_set_is_left_alone_where_it_is_not_met() -> None:
    def score(network: nn.Module, batches: Any) -> Mapping[str, float]:
        assert len(list(batches)) == 2, "the test set has 3"
        return {"MAE": 0.5, "PSNR": 20.0}

    checked(test=False, score=score)
    with pytest.raises(UserError, match="score fails on the test split: AssertionError: the test set has 3"):
        checked(score=score)


def test_the_dense_score_that_was_checked_is_not_paid_for_again() -> None:
    calls = itertools.count()

    def score(network: nn.Module, batches: Any) -> Mapping[str, float]:
        return {"MAE": float(next(calls)), "PSNR": 1.0}

    task = checked(score=score)
    assert [task.score(task.network, split).metrics["MAE"] for split in ("search", "test")] == [0.0, 1.0]
    with torch.no_grad():
        task.network.first.weight.mul_(2)  # another network now
    assert task.score(task.network, "search").metrics["MAE"] == 2.0


def loaders(first: Any, second: Any) -> dict[str, Any]:
    return {"train": DataLoader(first, batch_size=8), "search": DataLoader(second, batch_size=8)}


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        (loaders(IMAGES, IMAGES), "40 of 40"),
        (loaders(Subset(IMAGES, range(30)), Subset(IMAGES, range(25, 40))), "5 of 15"),
        (loaders(Subset(Subset(IMAGES, range(10, 40)), range(20)), Subset(IMAGES, range(29, 33))), "1 of 4"),
        (loaders(IMAGES, TensorDataset(*(tensor[:20].clone() for tensor in IMAGES.tensors))), "20 of 20"),
        (
            {
                "train": DataLoader(IMAGES, sampler=SubsetRandomSampler(range(30))),
                "search": DataLoader(IMAGES, sampler=SubsetRandomSampler(range(29, 40))),
            },
            "1 of 11",
        ),
    ],
)
def test_overlaps_are_counted(parts: dict[str, Any], count: str) -> None:
    with pytest.raises(UserError, match=f"training and search data overlap: {count} entries are in both"):
        checked(**parts)


def test_entries_of_any_type_are_compared() -> None:
    halves, twins = (TensorDataset(torch.arange(8.0).bfloat16()) for _ in range(2))
    with pytest.raises(UserError, match="8 of 8 entries are in both"):
        check_overlap(loaders(halves, twins))


def test_parts_that_do_not_overlap_pass() -> None:
    checked(**loaders(Subset(IMAGES, range(30)), Subset(IMAGES, range(30, 40))))
    sampled = [DataLoader(IMAGES, sampler=SubsetRandomSampler(part)) for part in (range(30), range(30, 40))]
    checked(train=sampled[0], search=sampled[1])
    batched = [DataLoader(IMAGES, batch_sampler=part) for part in ([[0, 1], [2, 3]], [[4, 5], [6, 7]])]
    checked(train=batched[0], search=batched[1])
    checked(train=DataLoader(IMAGES, sampler=[0, 1, 2, 3]), search=DataLoader(IMAGES, sampler=[4, 5, 6, 7]))
    checked(search=[next(iter(DataLoader(IMAGES)))])  # a list says nothing of where it comes from


@pytest.mark.parametrize("name", ["network", "example", "metrics"])
def test_a_task_that_lacks_something_says_what(name: str) -> None:
    class Bare(Task):
        def __init__(self) -> None:
            self.network, self.example, self.metrics = NETWORK, torch.zeros(2, 1, 8, 8), ["MAE"]
            delattr(self, name)

        def training_batches(self, epoch: int, seed: int) -> list[Any]:
            return [IMAGES[:8]]

        def loss(self, network: nn.Module, batch: Any) -> torch.Tensor:
            return denoising.loss(network, batch)

        def score(self, network: nn.Module, split: str) -> dict[str, float]:
            return {"MAE": 0.5}

    with pytest.raises(UserError, match=f"the task has no {name}; set it in its __init__"):
        load_task(TaskConfig(network="given", task=give_task(Bare()), data="own"), CPU)
