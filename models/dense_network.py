"""The dense network of a task, made ready: unwrapped, in float32, with its weights, tried, in its memory order."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.checkpoints.loading import load_weights
from models.data.images import DataInfo
from models.errors import UserError
from models.execution.finite_weights import check_finite
from models.execution.input_forms import guard_inputs, mend_input_order, precision_advice
from models.execution.memory_layout import choose_memory_format
from models.execution.module_copies import copy_module
from models.execution.standard_form import is_lazy_network, standard_form
from models.execution.training_outputs import class_scores
from models.networks.catalog import build_network
from models.notices import add_notice
from models.task_config import TaskConfig
from models.user.calls import describe_error, reporting_errors
from models.user.spec_names import data_name, network_subject

_INIT_SEED = 0  # fresh weights are the same in every worker
_TRIAL_IMAGES = 2


@dataclass(frozen=True)
class DenseNetwork:
    """A network that can be compressed, in evaluation mode, and how its inputs should lie in memory."""

    network: nn.Module
    memory_format: torch.memory_format
    training_fault: str | None
    """Why it cannot be fine-tuned, if it cannot."""


def prepare_network(config: TaskConfig, info: DataInfo, device: torch.device | str = "cpu") -> DenseNetwork:
    """A task's network as `build_dense_network` makes it, tried in training, and in its memory order."""
    network = build_dense_network(config, info).to(device)
    noise = _trial_images(info).to(device)
    memory_format = choose_memory_format(network, noise)
    network = network.to(memory_format=memory_format)
    fault = _training_fault(network, config, noise.contiguous(memory_format=memory_format), info.classes)
    return DenseNetwork(network, memory_format, fault)


def build_dense_network(config: TaskConfig, info: DataInfo) -> nn.Module:
    """Build a task's network and try it in evaluation; what was changed about it is said in a notice.

    Raises:
        UserError: unknown network, one that has no layers to compress, weights that do not fit or are not finite,
            images that it does not take, or not one output per class.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_INIT_SEED)
        network = build_network(config.network, classes=info.classes, channels=info.shape[0])
        network = standard_form(network, network_subject(config.network))
        if is_lazy_network(network):
            _call_network(
                network, config, info, 1
            )  # lazy layers take their shapes here, and their first weights from the seed
        if config.weights is not None:
            load_weights(network, config.weights)
        check_finite(network, network_subject(config.network))
        _check_outputs(network, config, info)
        _check_copies(network, config)
    return network


def _trial_images(info: DataInfo) -> Tensor:
    """Random images: zeros can hide a difference."""
    return torch.randn(_TRIAL_IMAGES, *info.shape, generator=torch.Generator().manual_seed(_INIT_SEED))


def _call_network(network: nn.Module, config: TaskConfig, info: DataInfo, count: int) -> object:
    shape = "×".join(map(str, info.shape))
    subject, images_name = network_subject(config.network), data_name(info.name)
    failure = f"{subject} cannot take the {shape} images of {images_name}"
    if count > 1:
        failure = f"{subject} takes one of the {shape} images of {images_name} but not {count} at once"
    images = _trial_images(info)[:count]
    try:
        output = _call_once(network, images, failure)
    except UserError as error:
        if not mend_input_order(network, images, subject):
            raise UserError(f"{error}{precision_advice(network, images)}") from error
        output = _call_once(network, images, failure)
    if not torch.equal(images, _trial_images(info)[:count]):
        guard_inputs(network)
    return output


def _call_once(network: nn.Module, images: Tensor, failure: str) -> object:
    with reporting_errors(failure), torch.no_grad():
        return network(images)


def _check_outputs(network: nn.Module, config: TaskConfig, info: DataInfo) -> None:
    """One row of class scores for each image, alone and together."""
    for count in (1, _TRIAL_IMAGES):
        output = _call_network(network, config, info, count)
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if shape != (count, info.classes):
            number = "one image" if count == 1 else f"{count} images"
            raise UserError(
                f"{network_subject(config.network)} returns {shape} for {number} of {data_name(info.name)}, "
                f"not ({count}, {info.classes})"
            )
    if not list(network.parameters()):
        raise UserError(f"{network_subject(config.network)} has no parameters, so there is nothing to compress")


def _check_copies(network: nn.Module, config: TaskConfig) -> None:
    try:
        copy.deepcopy(network)
    except Exception as error:  # whatever a user's attributes do when they are copied
        raise UserError(
            f"{network_subject(config.network)} cannot be copied once it has been called ({describe_error(error)}); "
            "let it keep no outputs of its layers"
        ) from error


def _training_fault(network: nn.Module, config: TaskConfig, images: Tensor, classes: int) -> str | None:
    """Why a copy of the network gives no class scores to train on; what it returns beside them is said."""
    twin = copy_module(network).train()
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with reporting_errors("it fails in training mode"), torch.random.fork_rng(devices=devices):
            inputs = images.clone()
            output = twin(inputs)
            if not torch.equal(inputs, images):
                guard_inputs(network)
        scores = class_scores(output)
    except (UserError, TypeError) as error:
        return str(error)
    if tuple(scores.shape) != (len(images), classes):
        return f"it returns {tuple(scores.shape)} for {len(images)} images in training, not ({len(images)}, {classes})"
    if not scores.requires_grad:
        return "none of its parameters takes a gradient (requires_grad)"
    if output is not scores:
        add_notice(
            f"{network_subject(config.network)} returns a {type(output).__name__} in training; "
            "only its first entry, the class scores, is trained on"
        )
    return None
