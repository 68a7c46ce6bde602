"""The network of a user's own task, made ready, and whether it can be trained and judged as the task says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn

from models.errors import UserError
from models.execution.finite_weights import check_finite
from models.execution.inputs import Inputs
from models.execution.memory_layout import choose_memory_format
from models.execution.module_copies import copy_module
from models.execution.standard_form import standard_form
from models.task import Task
from models.tasks.build import build_task
from models.tasks.given_inputs import fit_example, noting_calls, training_inputs
from models.tasks.loaded import TrainingPart
from models.tasks.objective import Objective
from models.user.calls import describe_error, reporting_errors

SUBJECT = "the task's network"


def prepare_given_network(task: Task, device: torch.device) -> tuple[nn.Module, Inputs]:
    """A task's network in its plain form, in evaluation mode, and an example of its inputs, both on the device.

    Raises:
        UserError: something is missing, or the network does not run.
    """
    network = standard_form(task.network, SUBJECT)
    check_finite(network, SUBJECT)
    _check_copies(network)
    inputs = fit_example(network, task.example, SUBJECT)
    with torch.no_grad():  # code may keep what it was called with
        inputs.clone()(network)
    _check_copies(network)
    if not list(network.parameters()):
        raise UserError(f"{SUBJECT} has no parameters, so there is nothing to compress")
    network, inputs = network.to(device), inputs.to(device)
    alone = inputs.only_tensor
    if alone is not None and alone.dim() == 4 and alone.is_floating_point():
        network = network.to(memory_format=choose_memory_format(network, alone))
    return network, inputs


def load_given_network(network: str | nn.Module) -> nn.Module:
    """A task's network in its plain form, without its data; what `build_task` understands, or the network itself."""
    given = network if isinstance(network, nn.Module) else build_task(network).network
    return standard_form(given, SUBJECT).eval()


def _check_copies(network: nn.Module) -> None:
    try:
        copy_module(network)
    except Exception as error:  # whatever a user's attributes do when they are copied
        raise UserError(
            f"{SUBJECT} cannot be copied once it has been called ({describe_error(error)}); "
            "let it keep no outputs of its layers"
        ) from error


def try_training(
    network: nn.Module, objective: Objective, part: TrainingPart, example: Inputs
) -> tuple[str | None, Inputs | None]:
    """Why a copy of the network gives no loss to train on, and what training calls it with if not with the like of
    the example; UserError if there is nothing to train on.
    """
    twin = copy_module(network).train()
    with reporting_errors("the task's training batches cannot be drawn", placed=True):
        batch = next(iter(part.training_batches(1, seed=0)), None)
    part.epoch_steps(1)  # an epoch has to end
    if batch is None:
        raise UserError("the task's training batches are empty; let training_batches(epoch, seed) yield some")
    try:
        with reporting_errors("the task's loss fails", placed=True), noting_calls(twin) as calls:
            loss = objective.loss(twin, batch)
    except UserError as error:
        return str(error), None
    if not math.isfinite(float(loss.detach())):
        return f"the task's loss is {float(loss.detach())} on the first batch", None
    if not loss.requires_grad:
        return "none of its parameters takes a gradient (requires_grad)", None
    return None, training_inputs(network, example, calls[0]) if calls else None


def state_of(network: nn.Module) -> tuple[Any, ...]:
    """What judging a network must leave as it is: its tensors, by their versions, and its modes."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return (*((id(tensor), tensor._version) for tensor in tensors), *(module.training for module in network.modules()))
