"""Tasks of data loaders that are there already."""

from __future__ import annotations

from typing import Any

import denoising
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from models.task import Task
from models.task_config import TaskConfig
from models.tasks.build import build_task, give_task
from models.tasks.given import GivenTask
from models.tasks.load import load_task

NUMBERS = TensorDataset(torch.arange(24.0).reshape(24, 1, 1, 1).expand(24, 1, 8, 8).clone(), torch.zeros(24, 1, 8, 8))


def loaded(**changes: Any) -> GivenTask:
    task = denoising.build(**({"network": denoising.Denoiser()} | changes))
    return load_task(TaskConfig(network="given", task=give_task(task), data="own"), "cpu")


def drawn(task: GivenTask, seed: int, epoch: int) -> list[list[float]]:
    """The first pixels of the images of every batch."""
    return [batch[0][:, 0, 0, 0].tolist() for batch in task.tune.training_batches(1, seed=seed, epoch=epoch)]


def test_an_epoch_is_shuffled_by_its_seed_and_number() -> None:
    task = loaded(train=DataLoader(NUMBERS, batch_size=5, shuffle=True))
    first = drawn(task, 0, 0)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 4]
    assert sorted(number for batch in first for number in batch) == [float(number) for number in range(24)]
    torch.manual_seed(99)
    assert drawn(task, 0, 0) == first
    assert first not in (drawn(task, 0, 1), drawn(task, 1, 0))


def test_loaders_with_a_generator_or_a_sampler_of_epochs_follow_too() -> None:
    own_generator = loaded(train=DataLoader(NUMBERS, batch_size=8, shuffle=True, generator=torch.Generator()))
    sampler = DistributedSampler(NUMBERS, num_replicas=1, rank=0, shuffle=True, seed=0)
    of_epochs = loaded(train=DataLoader(NUMBERS, batch_size=8, sampler=sampler))
    for task in (own_generator, of_epochs):
        assert drawn(task, 0, 0) == drawn(task, 0, 0)
        assert drawn(task, 0, 0) != drawn(task, 0, 1)


def test_parts_and_their_sizes() -> None:
    task = loaded()
    assert (len(task.tune), task.tune.epoch_steps(128), task.train is task.tune) == (64, 4, True)
    assert (task.count_inputs("search"), task.count_inputs("test"), task.noun) == (32, 48, "input")
    assert loaded(search=[next(iter(DataLoader(NUMBERS)))]).count_inputs("search") == 0  # a list does not say


def test_batches_that_do_not_say_how_many_they_are_are_counted() -> None:
    task = loaded(train=[(batch[0], batch[1]) for batch in DataLoader(NUMBERS, batch_size=10)])
    assert (len(task.tune), task.tune.epoch_steps(128)) == (24, 3)


def test_scores_are_those_of_the_function_on_each_split() -> None:
    task = loaded()
    for split, data in (("search", denoising.noisy_images(32, 1)), ("test", denoising.noisy_images(48, 2))):
        noisy, clean = data.tensors
        with torch.no_grad():
            error = task.network(noisy) - clean
        score = task.score(task.network, split)
        assert score.metrics["MAE"] == float(error.abs().double().mean()) or abs(
            score.metrics["MAE"] - float(error.abs().double().mean())) < 1e-6  # fmt: skip
        assert (score.inputs, score.loss) == (len(noisy), None)


def test_probes_and_calibration_take_the_first_batches() -> None:
    task = loaded(outputs=lambda network, batch: network(batch[0]))
    assert [len(batch[0]) for batch in task.probes(20)] == [16, 16]
    assert [len(batch[0]) for batch in task.calibration_batches()] == [16] * 4
    first, again = (next(iter(task.probes(1)))[0] for _ in range(2))
    assert torch.equal(first, again)


def test_the_same_task_has_one_name_and_another_has_another() -> None:
    network = denoising.Denoiser()
    name = give_task(denoising.build(network=network))
    assert give_task(denoising.build(network=network)) == name
    assert isinstance(build_task(name), Task)
    others = [
        denoising.build(network=denoising.Denoiser()),
        denoising.build(network=network, loss=lambda net, batch: net(batch[0]).square().mean()),
        denoising.build(network=network, identity="version 2"),
    ]
    fingerprints = {
        load_task(TaskConfig(network="given", task=give_task(task), data="own"), "cpu").fingerprint
        for task in [build_task(name), *others]
    }
    assert len(fingerprints) == 4
