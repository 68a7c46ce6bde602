"""Networks given as objects: what stands for one in a configuration, and how it reaches a worker.

A configuration is plain JSON, so it names an object as `object:CLASS@DIGEST`. The digest is that of what the network
computes: its modules and the operators that a forward pass runs, in evaluation and in training, without its weights,
which lie in a file. The object itself stays in this process and travels to workers; it is never written to disk. A run
of it is resumed, exported or loaded by giving a network that computes the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import UserError, first_line
from models.execution.input_forms import mend_input_order, precision_advice
from models.execution.module_copies import copy_module
from models.execution.operator_mode import OperatorMode
from models.execution.standard_form import is_lazy_network, standard_form
from models.notices import add_notice, collect_notices
from models.tensor_digest import digest_tensors
from models.user.calls import reporting_errors
from models.user.spec_names import OBJECT_PREFIX, class_of

_DIGITS = 12
GIVEN_NETWORKS: dict[str, nn.Module] = {}
"""By the names that stand for them, of this process."""
_notices: dict[str, tuple[str, ...]] = {}  # what was changed about an object, said where its task is loaded


def give_network(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """Keep a copy of an object under the name that stands for it, which is returned.

    Args:
        shape: (C, H, W) of its inputs.

    Raises:
        UserError: it cannot take such inputs, or cannot be copied.
    """
    with collect_notices() as notices:
        subject = f"the network given ({type(network).__name__})"
        network = standard_form(_copy_network(network), subject)
        digest = _digest_of_any_order(network, shape, subject)
    spec = f"{OBJECT_PREFIX}{re.sub(r'[^A-Za-z0-9_.]', '_', type(network).__name__)}@{digest}"
    GIVEN_NETWORKS[spec], _notices[spec] = network, tuple(notices)
    return spec


def given_network(spec: str) -> nn.Module:
    """A copy of the object that a name stands for; UserError if it was not given to this process."""
    if spec not in GIVEN_NETWORKS:
        raise UserError(
            f"network {class_of(spec)} was given as a Python object, which no file holds; go on in Python and give it "
            "there: network=... to search.api's functions or to load_compressed"
        )
    for notice in _notices.get(spec, ()):
        add_notice(notice)
    return copy_module(GIVEN_NETWORKS[spec])


def carried_networks(spec: str) -> Mapping[str, nn.Module]:
    """What a worker has to `receive` so that it knows this network: nothing unless it is an object."""
    return {spec: GIVEN_NETWORKS[spec]} if spec in GIVEN_NETWORKS else {}


def receive_networks(networks: Mapping[str, nn.Module]) -> None:
    """Make objects known that another process has sent."""
    GIVEN_NETWORKS.update(networks)


def _copy_network(network: nn.Module) -> nn.Module:
    if is_lazy_network(network):  # torch cannot copy them
        raise UserError(
            f"network {type(network).__name__} has lazy layers without shapes yet; call it once on a batch of images "
            "before you give it"
        )
    try:
        return copy_module(network).cpu()
    except Exception as error:  # whatever a user's attributes do when they are copied
        raise UserError(f"network {type(network).__name__} cannot be copied: {first_line(error)}") from error


def _digest_of_any_order(network: nn.Module, shape: tuple[int, int, int], subject: str) -> str:
    """The digest; a network that takes channels-last images alone is changed so that it takes all."""
    try:
        return _network_digest(network, shape)
    except UserError as error:
        images = torch.zeros(2, *shape)
        if not mend_input_order(network, images, subject):
            raise UserError(f"{error}{precision_advice(network, images)}") from error
    return _network_digest(network, shape)


def _network_digest(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """Of the modules and of the operators in both modes; the network itself is left as it is."""
    twin, digest = _copy_network(network), hashlib.sha256()
    for line in _structure_lines(twin):
        digest.update(line.encode() + b"\n")
    for training in (False, True):
        for line in _mode_operators(twin.train(training), shape):
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:_DIGITS]


def _structure_lines(network: nn.Module) -> Iterator[str]:
    """Every module's class and settings, and what no state dict holds."""
    for name, module in network.named_modules():
        yield f"{name} {type(module).__qualname__} {module.extra_repr()}"
    stored = network.state_dict().keys()
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype}" + ("" if name in stored else _tensor_content(tensor))


def _mode_operators(network: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    """The operators in the network's mode; with gradients only where it needs them, as they enter the digest."""
    try:
        return _record_operators(network, shape, gradients=False)
    except UserError:
        if not network.training:
            raise
    return _record_operators(network, shape, gradients=True)


def _record_operators(network: nn.Module, shape: tuple[int, int, int], *, gradients: bool) -> list[str]:
    """What one forward pass of two images runs, as a list of operators with their operands."""
    recorder = _Recorder({id(t): name for name, t in [*network.named_parameters(), *network.named_buffers()]})
    images = torch.zeros(2, *shape)
    recorder.name_tensor(images)
    failure = f"network {type(network).__name__} cannot take {'×'.join(map(str, shape))} images"
    with reporting_errors(failure), torch.random.fork_rng(devices=[]), torch.set_grad_enabled(gradients), recorder:
        network(images)
    return recorder.lines


class _Recorder(OperatorMode):
    """Writes every operator down; tensors are named in the order in which they appear."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._names = names
        self._alive: list[Tensor] = []  # a freed tensor's id may come again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = self._operand_text((args, kwargs or {}))  # before they may be changed in place
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.name_tensor(tensor)
        self.lines.append(f"{func} {operands} -> {self._operand_text(result)}")
        return result

    def name_tensor(self, tensor: Tensor) -> None:
        if id(tensor) not in self._names:
            self._names[id(tensor)] = f"t{len(self._names)}"
            self._alive.append(tensor)

    def _operand_text(self, value: Any) -> str:
        if isinstance(value, Tensor):
            if id(value) not in self._names:  # a constant of the network's code
                constant = _tensor_content(value)
                self.name_tensor(value)
                return f"{self._names[id(value)]}={constant}"
            return f"{self._names[id(value)]}{tuple(value.shape)}"
        if isinstance(value, (tuple, list)):
            return "[" + ", ".join(map(self._operand_text, value)) + "]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key}: {self._operand_text(entry)}" for key, entry in sorted(value.items())) + "}"
        return str(value)


def _tensor_content(tensor: Tensor) -> str:
    """A digest of a tensor's values, which no state dict holds: two networks that differ in it are not the same."""
    return digest_tensors([("", tensor)])
