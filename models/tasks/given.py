"""A user's own `models.task.Task` as the engine asks for it, with every answer of theirs checked."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints.loading import load_weights
from models.errors import UserError, one_line
from models.execution.finite_weights import check_finite
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_module
from models.execution.tensor_leaves import tensor_leaves
from models.notices import collect_notices
from models.task import Task
from models.task_config import TaskConfig
from models.tasks.batches import count_inputs, draw_apart, first_batches, is_used_up, loader_size, move_batch
from models.tasks.build import build_task, task_identity
from models.tasks.check_given import CHANGES, check_given
from models.tasks.given_network import prepare_given_network, state_of, try_training
from models.tasks.loaded import LoadedTask, Score, Split
from models.tasks.metric import parse_metrics
from models.tasks.objective import Batch, Objective
from models.tasks.outputs import Output, output_list
from models.tasks.parts import fingerprint_of
from models.tasks.visible_data import digest_visible
from models.tensor_digest import digest_tensors
from models.user.code import is_user_spec

_SEEDS_APART = 100_003
_CALIBRATION_INPUTS = 1024
_MOST_BATCHES = 100_000
_COUNT_PATIENCE = 120.0  # seconds in which an epoch that does not know its length is drawn once
_ROUNDING = 1e-4  # of shares that are added up in single precision


class GivenPart:
    """The training batches of a user's task; their size is its own."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task, self._device = task, device

    def __len__(self) -> int:
        return self._counts[1]

    def epoch_steps(self, batch_size: int) -> int:
        return max(self._counts[0], 1)

    def training_batches(self, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[Batch]:
        drawn = draw_apart(lambda: self._task.training_batches(epoch, seed), seed * _SEEDS_APART + epoch)
        return (move_batch(batch, self._device) for batch in drawn)

    def statistics_batches(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        return self.training_batches(batch_size, seed=seed)

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Batches and inputs of an epoch: of the first one, which is drawn once for this where it does not say."""
        batches: Any = self._task.training_batches(0, 0)
        if batches is self._task.training_batches(0, 0) and is_used_up(batches):
            raise UserError(
                "the task's training_batches returns the same iterator in every epoch, which the first one uses up; "
                "make a new one, or return a list or a DataLoader"
            )
        if (inputs := loader_size(batches)) is not None and hasattr(batches, "__len__"):
            return len(batches), inputs
        sizes, end = [], time.monotonic() + _COUNT_PATIENCE
        for batch in draw_apart(lambda: self._task.training_batches(0, 0), 0):
            sizes.append(count_inputs(batch))
            if len(sizes) >= _MOST_BATCHES or time.monotonic() > end:
                raise UserError(
                    f"the task's training batches have not ended after {len(sizes):,}; let training_batches(epoch, "
                    "seed) end with its epoch, or return a DataLoader, which knows its length"
                )
        return len(sizes), sum(sizes)


class GivenObjective(Objective):
    """The user's loss, and their outputs if they give any."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.has_outputs = type(task).outputs is not Task.outputs or "outputs" in vars(task)

    def loss(self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
        loss = self._task.loss(network, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the task's loss is {shape}; return a scalar tensor")
        return loss.reshape(())

    def outputs(self, network: nn.Module, batch: Batch) -> list[Output]:
        return [output.float() for output in output_list(self._task.outputs(network, batch))]

    def loss_and_outputs(
        self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0
    ) -> tuple[Tensor, list[Output]]:
        with _SharedCalls(network) as shared:
            loss = self.loss(network, batch)
            shared.begun = True
            return loss, self.outputs(network, batch)

    def forward(self, network: nn.Module, batch: Batch) -> None:
        if self.has_outputs:
            self.outputs(network, batch)
        else:
            with _containers_in_training(network):
                self.loss(network, batch)

    def calibration_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        with _containers_in_training(network.eval()):
            return self.loss(network, batch)


@contextmanager
def _containers_in_training(network: nn.Module) -> Iterator[None]:
    """Modules made of others are in training mode, so that they return what a loss needs; layers are as they were.

    Norms keep their statistics and dropout drops nothing, while a detector still takes targets and returns losses.
    """
    containers = [module for module in network.modules() if next(module.children(), None) is not None]
    modes = [module.training for module in containers]
    for module in containers:
        module.training = True
    try:
        yield
    finally:
        for module, mode in zip(containers, modes, strict=True):
            module.training = mode


class _SharedCalls:
    """While this lasts, what a network returns to the loss is returned to `outputs` too, for equal arguments.

    Attributes:
        begun: whether it is `outputs` that calls now. A loss gets every pass that it asks for: it may compare two that
            differ by dropout.
    """

    def __init__(self, network: nn.Module) -> None:
        self.begun = False
        self._network, self._forward = network, network.forward
        self._own_forward = vars(network).get("forward")
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any], list[int], Any]] = []

    def __enter__(self) -> _SharedCalls:
        self._network.forward = self._call
        return self

    def __exit__(self, *_: object) -> None:
        del self._network.forward
        if self._own_forward is not None:
            self._network.forward = self._own_forward

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        for known_args, known_kwargs, versions, output in self._calls if self.begun else ():
            # Code may write into its inputs.
            intact = versions == _versions_of(known_args, known_kwargs)
            if intact and _are_equal(known_args, args) and _are_equal(known_kwargs, kwargs):
                return output
        if self.begun:
            return self._forward(*args, **kwargs)
        versions = _versions_of(args, kwargs)
        output = self._forward(*args, **kwargs)
        self._calls.append((args, kwargs, versions, output))
        return output


def _versions_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    return [tensor._version for tensor in tensor_leaves((args, kwargs))]


def _are_equal(first: Any, second: Any) -> bool:
    """Whether two arguments are the same or hold equal tensors, such as a picture that is made smaller anew.

    Comparing the values waits for the device; the forward pass that it spares takes longer.
    """
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        if first.requires_grad or second.requires_grad:  # outputs are to be differentiated by their own inputs
            return False
        return (first.dtype, first.device) == (second.dtype, second.device) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_are_equal(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_are_equal, first, second))
    return isinstance(first, (bool, int, float, str)) and first == second


def load_given(config: TaskConfig, device: torch.device) -> GivenTask:
    """The task of `config.task`, its network made ready on `device`.

    Raises:
        UserError: what the function returns is no task, or its network, example or training batches will not do.
    """
    with collect_notices() as notices:
        task = build_task(config.task or "")
        network, inputs = prepare_given_network(task, device)
        # A task that Python code gave stays as it is: its network may be trained here, or take other weights.
        task, network = copy.copy(task), copy_module(network)
        if config.weights is not None:
            load_weights(network, config.weights)
            check_finite(network, f"weights {config.weights}")
    task.network, task.device = network, device
    metrics = parse_metrics(task.metrics)
    parts = task_identity(config.task or "") | {
        "weights": digest_tensors(network.state_dict().items()),
        "metrics": [str(metric) for metric in metrics],
        "data": f"{task.identity} {digest_visible(task) if is_user_spec(config.task or '') else ''}".strip(),
    }
    part, objective = GivenPart(task, device), GivenObjective(task)
    fault, in_training = try_training(network, objective, part, inputs)
    return GivenTask(
        config=config,
        network=network,
        metrics=metrics,
        objective=objective,
        tune=part,
        train=part,
        device=device,
        fingerprint=fingerprint_of(parts),
        parts=parts,
        training_fault=fault,
        seen=task.seen,
        notices=tuple(notices),
        task=task,
        inputs=replace(inputs, training=in_training),
    )


@dataclass
class GivenTask(LoadedTask):
    """A task of a user's own."""

    task: Task
    inputs: Inputs
    """Two of the network's inputs or more, on the device."""
    _dense_scores: dict[tuple[Split, int | None, tuple[Any, ...]], Score] = field(default_factory=dict)
    """Of the dense network in a state: what a task was checked with need not be measured again."""

    @property
    def example(self) -> Inputs:
        return self.inputs

    def count_inputs(self, split: Split) -> int:
        return self.task.sizes.get(split, 0)

    def check(self, *, test: bool) -> None:
        check_given(self, self.task, test=test)

    @torch.no_grad()
    def score(self, network: nn.Module, split: Split, count: int | None = None) -> Score:
        before = state_of(network.eval())
        count = count if _takes_count(self.task) else None
        if network is self.network and (split, count, before) in self._dense_scores:
            return self._dense_scores[split, count, before]
        measured = self.task.score(network, split, *([] if count is None else [count]))
        if state_of(network) != before:
            raise UserError(f"the task's score {CHANGES}")
        inputs = self.count_inputs(split)
        score = Score(check_score(measured, self), None, inputs if count is None else min(inputs, count))
        if network is self.network:
            self._dense_scores[split, count, before] = score
        return score

    def probes(self, count: int) -> Iterator[Batch]:
        """The first batches of the first epoch."""
        return first_batches(self.tune.training_batches(1, seed=0), count)

    def calibration_batches(self) -> Iterator[Batch]:
        return first_batches(self.tune.training_batches(1, seed=0), _CALIBRATION_INPUTS)

    def describe_data(self) -> dict[str, Any]:
        return {"name": self.config.data}


def _takes_count(task: Task) -> bool:
    """Whether a task's score can be of the first inputs alone."""
    return len(inspect.signature(task.score).parameters) > 2


def check_score(measured: Any, task: LoadedTask) -> dict[str, float]:
    """The metrics of a score; UserError if one that was declared is missing or is no number."""
    names = [metric.name for metric in task.metrics]
    shares = {metric.name for metric in task.metrics if metric.unit == "%"}
    if not isinstance(measured, Mapping):
        raise UserError(f"the task's score is a {type(measured).__name__}; return a dictionary with {', '.join(names)}")
    if missing := [name for name in names if name not in measured]:
        raise UserError(f"the task's score lacks {', '.join(missing)}; it has {', '.join(measured) or 'nothing'}")
    values = {}
    for name in names:
        try:
            values[name] = float(measured[name])
        except (TypeError, ValueError, RuntimeError):
            values[name] = math.nan
        if not math.isfinite(values[name]):
            raise UserError(f"the task's score gives {name} as {one_line(repr(measured[name]))[:60]}; give a number")
        if name in shares and values[name] > 1 + _ROUNDING:
            raise UserError(
                f"the task's score gives {name} as {values[name]:g}, while its unit is %; "
                "give a share from 0 to 1, or declare another unit"
            )
    return values
