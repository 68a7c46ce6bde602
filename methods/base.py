"""The contract of a compression method.

Who calls what, when, and what may be changed:

    compressor = create(name, network, example, options)   once per network; reads weights, never data
    compressor.calibrate(batches, objective)               only if info.needs_calibration, before compress
    compressor.sites, .skipped, .cost                      what can be chosen, what cannot and why, what a choice costs
    small = compressor.compress(allocation)                a new network; compressor.network stays untouched
    tuning = compressor.tuning(allocation, small, ...)     what the method adds to fine-tuning `small`
    small = tuning.finish(small)                           helpers folded away, ready to be judged
    tensors = compressor.pack(small)                       its stored form, every table at its bit width

A method never trains, and sees no data but the batches for which it asks by `needs_calibration`. Settings, sites,
allocations and costs are defined in `allocations.py` and can be imported from here as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from methods.allocations import DENSE as DENSE
from methods.allocations import Allocation as Allocation
from methods.allocations import Cost as Cost
from methods.allocations import CostModel as CostModel
from methods.allocations import Costs as Costs
from methods.allocations import Levels as Levels
from methods.allocations import Setting as Setting
from methods.allocations import Site as Site
from methods.allocations import as_key as as_key
from methods.method_info import MethodInfo as MethodInfo
from models.execution.example_inputs import example_input as example_input
from models.execution.inputs import Example
from models.execution.module_copies import copy_module
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective

T = TypeVar("T")


class Centroids(NamedTuple):
    """A codebook of kernels for reports to draw, the most used kernel first."""

    name: str  # of the layer, or of the layers that share the codebook
    kernels: Tensor  # (k, Kh, Kw)
    counts: Tensor  # (k,) kernels of the network that use each


class Tuning:
    """What a method adds to the fine-tuning of its compressed network; this default adds nothing."""

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Optimizer groups; a group without `weight_decay` or `momentum` takes the recipe's."""
        return [{"params": [p for p in network.parameters() if p.requires_grad]}]

    def after_backward(self, network: nn.Module, step: int) -> None:
        """Called when gradients are there, before the optimizer's step number `step` (from 0)."""

    @property
    def has_hook(self) -> bool:
        """Whether `after_backward` does anything: no step is then recorded as a CUDA graph, which holds no Python."""
        return type(self).after_backward is not Tuning.after_backward

    def finish(self, network: nn.Module) -> nn.Module:
        """The network to judge and store, helpers folded away."""
        return network

    def learned_allocation(self) -> Allocation | None:
        """After `finish`: the allocation that the fine-tune arrived at; None where the method leaves it as it was."""
        return None

    def report(self) -> dict[str, Any]:
        """Figures of this fine-tune for the run's files, such as the rows that had not reached zero."""
        return {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The state, besides the network's, from which an interrupted fine-tune goes on at the next step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `state_dict`."""


class Compressor(ABC):
    """A method bound to one dense network.

    Subclasses set `sites`, `skipped` and `cost` at construction. Where that takes long, they declare them with
    `lazy_attribute`, because `unpack` needs none of them.
    """

    info: MethodInfo
    sites: tuple[Site, ...]
    skipped: dict[str, str]  # layer -> the reason why it stays dense
    cost: CostModel

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        """`example`: a batch of inputs on the network's device; the values of floating-point ones do not matter."""
        self.network = network
        self.example = example
        self.options = dict(options)

    @abstractmethod
    def compress(self, allocation: Allocation) -> nn.Module:
        """A compressed copy of the network, in the network's own mode and device."""

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:  # noqa: B027
        """See a few batches of the fine-tuning part; called if `info.needs_calibration`.

        Args:
            objective: runs a network on such a batch, and has the loss that the task is trained with.
        """

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """What to add to a fine-tune of `network` over `steps` optimizer steps with peak rate `lr`."""
        return Tuning()

    def learned(self, target: float, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """Like `tuning`, for a method that learns its allocation: at most `target` of the dense FLOPs are kept.

        `network` is what `compress` makes of an empty allocation. After `finish`, the tuning's report holds the
        learned `allocation`. UserError if the target is out of reach.
        """
        raise TypeError(f"{type(self).__name__} does not learn its allocation")

    def centroids(self, network: nn.Module) -> list[Centroids]:
        """The codebooks of a network that `compress` made; asked for if `info.has_centroids`."""
        return []

    @property
    def unregistered_tensors(self) -> Sequence[str]:
        """Tensors that modules hold as plain attributes and that compression changes: no state dict has them."""
        return ()

    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        """The stored form of a network that `compress` made."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The packed network again, its outputs equal bit for bit, whether this method is calibrated or not."""
        network = self.compress(allocation)
        network.load_state_dict(dict(tensors))
        return network

    def allocation(self, levels: Sequence[int] | Levels) -> Allocation:
        """The allocation that gives site i its setting number `levels[i]`."""
        return Allocation(
            {site.name: site.settings[int(level)] for site, level in zip(self.sites, levels, strict=True)}
        )

    def levels(self, allocation: Allocation) -> Levels:
        """The inverse of `allocation`; sites that it does not name stay dense."""
        return np.array([site.level_of(allocation[site.name]) if site.name in allocation else 0
                         for site in self.sites], dtype=np.intp)  # fmt: skip

    def cost_of(self, allocation: Allocation) -> Cost:
        """The cost of one allocation, by arithmetic."""
        costs = self.cost(self.levels(allocation)[None])
        return Cost(*(int(column[0]) for column in costs))


def lazy_attribute(compute: Callable[[Any], T]) -> T:
    """Decorator: an attribute that the decorated method computes when it is first read."""
    return cast(T, cached_property(compute))


def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the original and holds no gradients."""
    twin = copy_module(network)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin
