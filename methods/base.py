"""The contract of a compression method.

Who calls what, when, and what may be changed:

    compressor = create(name, network, example, options)   once per network; reads weights, never data
    compressor.calibrate(batches)                          only if info.needs_calibration, before compress
    compressor.sites, .skipped, .cost                      what can be chosen, what cannot and why, what a choice costs
    small = compressor.compress(allocation)                a new network; compressor.network stays untouched
    tuning = compressor.tuning(allocation, small, ...)     what the method adds to fine-tuning `small`
    small = tuning.finish(small)                           helpers folded away, ready to be judged
    tensors = compressor.pack(small)                       its stored form, every table at its bit width

FLOPs are multiply-accumulates of convolution and linear layers for one input; bytes are those of the stored
parameters, dense ones in fp32.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema
from torch import Tensor, nn

from models.execution.module_copies import copy_module

Levels = npt.NDArray[np.intp]  # (n_sites,) or (n_allocations, n_sites): an index into each site's settings
Knob = int | float | str
T = TypeVar("T")


def as_key(levels: Levels) -> tuple[int, ...]:
    """One allocation's levels, hashable."""
    return tuple(int(level) for level in levels)


class Setting(Mapping[str, Knob]):
    """What a site is given, e.g. `Setting(ratio=0.5)` or `Setting(G=4, T=1)`; immutable, hashable, JSON."""

    __slots__ = ("_knobs",)

    def __init__(self, **knobs: Knob) -> None:
        self._knobs = dict(sorted(knobs.items()))

    def __getitem__(self, knob: str) -> Knob:
        return self._knobs[knob]

    def __iter__(self) -> Iterator[str]:
        return iter(self._knobs)

    def __len__(self) -> int:
        return len(self._knobs)

    def __hash__(self) -> int:
        return hash(tuple(self._knobs.items()))

    def __eq__(self, other: object) -> bool:
        return self._knobs == (other._knobs if isinstance(other, Setting) else other)

    def __repr__(self) -> str:
        return ", ".join(f"{knob}={value:.4g}" if isinstance(value, float) else f"{knob}={value}"
                         for knob, value in self._knobs.items()) or "dense"  # fmt: skip


DENSE = Setting()  # for methods whose dense state has no knobs


@dataclass(frozen=True)
class Site:
    """A place with a compression level of its own: a coupled channel group, or one convolution.

    `settings[0]` is dense; from there the cost never rises. `strengths` says on a scale common to all sites of the
    method, from 0 (dense) to 1, how hard each setting compresses; it never falls. A uniform allocation gives every
    site its last setting whose strength is at most one common value.
    """

    name: str
    settings: tuple[Setting, ...]
    strengths: tuple[float, ...]
    layers: tuple[str, ...]  # the modules that change with it
    channels: int  # how many channels (or kernels) there are to remove
    widths: tuple[int, ...] = ()  # the channels that each setting keeps; empty for a site that removes none
    owned: tuple[str, ...] = ()  # of `layers` those whose outputs it decides; empty: all of them

    def __post_init__(self) -> None:
        assert len(self.settings) == len(self.strengths) > 0, self.name

    def level_of(self, setting: Setting) -> int:
        """The index of `setting` in this site's ladder; ValueError if it is not one of them."""
        try:
            return self.settings.index(setting)
        except ValueError:
            raise ValueError(f"site {self.name!r} has no setting {dict(setting)}") from None


class Allocation(Mapping[str, Setting]):
    """A setting for every site, in site order; immutable, hashable, JSON.

    A pydantic model may have fields of this type: they take an allocation or an object of objects, and are written as
    the latter.
    """

    __slots__ = ("_settings",)

    def __init__(self, settings: Mapping[str, Mapping[str, Knob]] = MappingProxyType({})) -> None:
        self._settings = {site: Setting(**setting) for site, setting in settings.items()}

    def __getitem__(self, site: str) -> Setting:
        return self._settings[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __hash__(self) -> int:
        return hash(frozenset(self._settings.items()))

    def __eq__(self, other: object) -> bool:
        return self._settings == (other._settings if isinstance(other, Allocation) else other)

    def __repr__(self) -> str:
        return f"Allocation({self})"

    def __str__(self) -> str:
        """Its JSON text, as tables and the metadata of weights hold it."""
        return json.dumps(self.to_json())

    def to_json(self) -> dict[str, dict[str, Knob]]:
        return {site: dict(setting) for site, setting in self._settings.items()}

    @classmethod
    def from_text(cls, text: str) -> Allocation:
        """The inverse of `str`; ValueError for anything else."""
        return TypeAdapter(cls).validate_json(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        settings = handler.generate_schema(dict[str, dict[str, Knob]])
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: value if isinstance(value, cls) else cls(read(value)),
            settings,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_json, return_schema=settings),
        )


class Cost(NamedTuple):
    """What one network costs for one input: multiply-accumulates, parameters, stored bytes."""

    flops: int
    params: int
    bytes: int


class Costs(NamedTuple):
    """The same for many allocations at once: three integer arrays of shape (n_allocations,)."""

    flops: npt.NDArray[np.int64]
    params: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]


class CostModel(Protocol):
    """Costs of any allocation by arithmetic, without touching the network."""

    @property
    def dense(self) -> Cost:
        """The network as it came."""

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""


class Centroids(NamedTuple):
    """A codebook of 2-D kernels, to be looked at: most used first."""

    name: str
    """Of the layer or layers that share it."""
    kernels: Tensor  # (k, Kh, Kw)
    counts: Tensor  # (k,) kernels of the network that use each


@dataclass(frozen=True)
class MethodInfo:
    """What a method is and can do; capabilities are data, so nobody asks for its name."""

    name: str
    summary: str
    source: str  # paper or formula
    shrinks_channels: bool = True  # the result is a plain, narrower network
    needs_calibration: bool = False  # wants batches of data before it can score (Taylor)
    learns_allocation: bool = False  # can find its own widths while training (ResRep)
    has_centroids: bool = False  # its networks have `centroids` to look at
    place: Literal["first", "second"] | None = None  # in a composition of two methods, `graph/removal.py`; None: cannot
    options: Mapping[str, Any] = field(default_factory=dict)  # option -> default


class Tuning:
    """What a method adds to fine-tuning its compressed network; this default adds nothing."""

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Optimizer groups; one without `weight_decay` or `momentum` takes the recipe's."""
        return [{"params": [p for p in network.parameters() if p.requires_grad]}]

    def after_backward(self, network: nn.Module, step: int) -> None:
        """Called with gradients in place, before the optimizer's step number `step` (from 0)."""

    def finish(self, network: nn.Module) -> nn.Module:
        """The network to judge and store, helpers folded away."""
        return network

    def report(self) -> dict[str, Any]:
        """What the method wants said of its run (rows that had not gone to zero, ...)."""
        return {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What a fine-tune that was interrupted between two steps needs besides the network to go on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `state_dict`."""


class Compressor(ABC):
    """A method bound to one dense network.

    Subclasses set `sites`, `skipped` and `cost` at construction, or, if that takes long, make them `late`: `unpack`
    needs none of them.
    """

    info: MethodInfo
    sites: tuple[Site, ...]
    skipped: dict[str, str]  # layer -> why it is left dense
    cost: CostModel

    def __init__(self, network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> None:
        """`example`: one input batch of the right shape, on the network's device; its values do not matter."""
        self.network = network
        self.example = example
        self.options = dict(options)

    @abstractmethod
    def compress(self, allocation: Allocation) -> nn.Module:
        """A compressed copy of the network, in the network's own mode and device."""

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:  # noqa: B027
        """Look at a few (inputs, labels) batches of the fine-tuning part; only methods that declare so need it."""

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """What to add to a fine-tune of `network` over `steps` optimizer steps with peak rate `lr`."""
        return Tuning()

    def learned(self, target: float, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """Like `tuning`, for a method that learns its allocation: at most `target` of the dense FLOPs are kept.

        `network` is what `compress` makes of an empty allocation; after `finish` the tuning's report holds the
        `allocation` arrived at. UserError if the target is out of reach.
        """
        raise TypeError(f"{type(self).__name__} does not learn its allocation")

    def centroids(self, network: nn.Module) -> list[Centroids]:
        """The codebooks of a network that `compress` made; only methods that declare so have any."""
        return []

    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        """The stored form of a network that `compress` made."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A network with the outputs of the packed one, bit for bit; whatever the weights here, calibrated or not."""
        network = self.compress(allocation)
        network.load_state_dict(dict(tensors))
        return network

    def allocation(self, levels: Sequence[int] | Levels) -> Allocation:
        """The allocation that gives site i its setting number `levels[i]`."""
        return Allocation(
            {site.name: site.settings[int(level)] for site, level in zip(self.sites, levels, strict=True)}
        )

    def levels(self, allocation: Allocation) -> Levels:
        """The inverse of `allocation`; sites it does not name stay dense."""
        return np.array([site.level_of(allocation[site.name]) if site.name in allocation else 0
                         for site in self.sites], dtype=np.intp)  # fmt: skip

    def cost_of(self, allocation: Allocation) -> Cost:
        costs = self.cost(self.levels(allocation)[None])
        return Cost(*(int(column[0]) for column in costs))


def late(make: Callable[[Any], T]) -> T:
    """An attribute that is made when it is first asked for, by a method of its name."""
    return cast(T, cached_property(make))


def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the original and holds no gradients."""
    twin = copy_module(network)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def example_input(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Two random inputs (C, H, W) -> (2, C, H, W); noise, because zeros can hide a broken channel."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator).to(device)
