"""Settings, sites, allocations and cost models: the values between methods and the search.

FLOPs are multiply-accumulates of convolution and linear layers for one input; bytes are those of the stored
parameters, dense ones in fp32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

Levels = npt.NDArray[np.intp]  # (n_sites,) or (n_allocations, n_sites): an index into each site's settings
Knob = int | float | str


def as_key(levels: Levels) -> tuple[int, ...]:
    """One allocation's levels, hashable."""
    return tuple(int(level) for level in levels)


class Setting(Mapping[str, Knob]):
    """The level of compression of a site: `Setting(ratio=0.5)`, `Setting(G=4, T=1)`; immutable, hashable, JSON."""

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

    `settings` is the site's ladder: dense first, and no setting costs more than the one before it. `strengths` says
    how hard each setting compresses, from 0 (dense) to 1, on one scale for all sites of the method; it never falls.
    A uniform allocation gives every site its last setting whose strength is at most one common value.
    """

    name: str
    settings: tuple[Setting, ...]
    strengths: tuple[float, ...]
    layers: tuple[str, ...]  # the modules that change with the setting
    channels: int  # channels (or kernels) of the dense site
    widths: tuple[int, ...] = ()  # the channels that each setting keeps; empty for a site that removes none
    owned: tuple[str, ...] = ()  # those of `layers` whose outputs the site decides; empty: all of them
    damages: tuple[float, ...] = ()
    """How far each setting alone moves the network's outputs, predicted in closed form, in the measure of drift; it
    never falls. Empty where the method predicts none."""
    family: str = ""
    """Of a composition, the method whose site it is: predictions of two methods may be off by different factors."""

    def __post_init__(self) -> None:
        assert len(self.settings) == len(self.strengths) > 0, self.name
        assert len(self.damages) in (0, len(self.settings)), self.name

    def level_of(self, setting: Setting) -> int:
        """The index of `setting` in this site's ladder; ValueError if it is not one of them."""
        try:
            return self.settings.index(setting)
        except ValueError:
            raise ValueError(f"site {self.name!r} has no setting {dict(setting)}") from None


class Allocation(Mapping[str, Setting]):
    """A setting for every site, in site order; immutable, hashable, JSON.

    A pydantic model may have fields of this type: they accept an allocation or a JSON object of objects, and are
    written as such an object.
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
    """The cost of one network for one input: multiply-accumulates, parameters, stored bytes."""

    flops: int
    params: int
    bytes: int


class Costs(NamedTuple):
    """The figures of `Cost` for many allocations at once: three integer arrays of shape (n_allocations,)."""

    flops: npt.NDArray[np.int64]
    params: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]


class CostModel(Protocol):
    """Costs of any allocation by arithmetic, without touching the network."""

    @property
    def dense(self) -> Cost:
        """The cost of the uncompressed network."""

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""
