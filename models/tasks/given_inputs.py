"""How the network of a user's task is called: its example as a batch that can be cut, and its calls in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_structure

from models.errors import UserError
from models.execution.inputs import Example, Inputs
from models.execution.module_copies import copy_module
from models.execution.random_state import random_state
from models.execution.tensor_leaves import output_leaves
from models.user.calls import reporting_errors

_IMAGE_DIMS = 3


def fit_example(network: nn.Module, example: Example, subject: str) -> Inputs:
    """The example as a batch of two inputs or more, of which the network takes any number.

    Whether its inputs are rows of tensors or items of lists is tried. Constants, with which many stand for an image,
    become noise: zeros can hide a broken channel.

    Raises:
        UserError: the network does not take the example, or not one of its inputs alone.
    """
    inputs = Inputs.of(example)
    if not inputs.tensors:
        raise UserError("the task's example holds no tensors; give a tensor, a tuple of arguments or a dictionary")
    with reporting_errors(f"{subject} does not take the task's example", placed=True):
        _run_copy(network, inputs)
    inputs = _try_noise(network, inputs)
    fitting = next((form for form in _batch_forms(inputs) if _runs(network, form.first())), None)
    if fitting is None:
        with reporting_errors(f"{subject} takes the task's example of {len(inputs)} inputs, but not the first alone"):
            _run_copy(network, inputs.first())
        raise AssertionError("it ran now and not before")
    pair = fitting.repeat(2)
    # Cloned: a view would carry all that it is a view of into the files of an export.
    return (pair if len(fitting) == 1 and _runs(network, pair) else fitting).clone()


def _batch_forms(inputs: Inputs) -> list[Inputs]:
    """Rows of tensors, or items of lists; images without a batch dimension in a list are hardly anything else."""
    lists = [value for value in (*inputs.args, *inputs.kwargs.values()) if isinstance(value, (list, tuple)) and value]
    rows, items = inputs, replace(inputs, listed=True)
    if not lists:
        return [rows]
    tensors = [tensor for tensor in lists[0] if isinstance(tensor, Tensor)]
    images = all(tensor.dim() == _IMAGE_DIMS for tensor in tensors) or len({len(t) for t in tensors if t.dim()}) > 1
    return [items, rows] if tensors and images else [rows, items]


def _try_noise(network: nn.Module, inputs: Inputs) -> Inputs:
    """The inputs with noise in place of floating-point tensors that are constant, if the network does well on it."""
    generator = torch.Generator().manual_seed(0)

    def draw_noise(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or not tensor.numel() or bool((tensor != tensor.flatten()[0]).any()):
            return tensor
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    noise = inputs.map_floats(draw_noise)
    return noise if _runs(network, noise, finite=_runs(network, inputs, finite=True)) else inputs


def _runs(network: nn.Module, inputs: Inputs, *, finite: bool = False) -> bool:
    """Whether a network takes inputs; and returns finite numbers, if that is asked."""
    try:
        outputs = _run_copy(network, inputs)
    except Exception:  # whatever the user's code raises
        return False
    return not finite or all(bool(output.isfinite().all()) for output in outputs)


@torch.no_grad()
def _run_copy(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The outputs in evaluation; code may keep state, or write into its inputs."""
    with random_state(inputs.device, 0):
        return output_leaves(inputs.clone()(copy_module(network).eval()))


@contextmanager
def noting_calls(network: nn.Module, most: int = 1) -> Iterator[list[Inputs]]:
    """Collects what the network is called with while this lasts, until there are `most` inputs."""
    calls: list[Inputs] = []

    def note_call(_network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if sum(map(len, calls)) < most:
            calls.append(Inputs(args, dict(kwargs)).clone())

    handle = network.register_forward_pre_hook(note_call, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def training_inputs(network: nn.Module, example: Inputs, call: Inputs) -> Inputs | None:
    """What a training pass of two inputs is called with, where training takes other arguments than the example.

    Images in it become noise where the network runs on that: all this may be stored beside an export.

    Args:
        call: of a network in training, on a whole batch.
    """
    if _has_same_form(call, example):
        return None
    call = replace(call.map(torch.Tensor.detach), listed=example.listed)
    generator, most = torch.Generator().manual_seed(0), max(map(Tensor.dim, call.tensors), default=0)

    def draw_noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.dim() == most else tensor

    pair = call.first(2).clone()
    forms = [pair.map_floats(draw_noise), pair] if most >= _IMAGE_DIMS else [pair]
    return next((form for form in forms if _trains(network, form)), call)


def _has_same_form(call: Inputs, example: Inputs) -> bool:
    """Whether the same arguments are given, but for the number of inputs and their sizes."""
    if example.listed:
        call, example = (replace(inputs, listed=True).first() for inputs in (call, example))
    same = tree_structure((call.args, dict(call.kwargs))) == tree_structure((example.args, dict(example.kwargs)))
    return same and [t.dim() for t in call.tensors] == [t.dim() for t in example.tensors]


def _trains(network: nn.Module, inputs: Inputs) -> bool:
    try:
        with random_state(inputs.device, 0):
            inputs.clone()(copy_module(network).train())
    except Exception:
        return False
    return True
