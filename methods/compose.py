"""Two methods as one, `first+second`: the second works on the network that the first has narrowed.

Sites are those of both, named `l1:layer1.0.conv1`, `kse:layer1.0.conv1`. The first removes channels in a fixed order,
so it is known of every allocation which are left, and what the second measured of the whole network holds for them:
costs stay arithmetic and are those of the final network, to the unit (`graph/removal.py`).

Strengths are put on one scale, the share of FLOPs that a method takes off when all of its sites are that strong: at a
uniform level both take off the same share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from methods.base import Allocation, Centroids, Compressor, Cost, Costs, Levels, MethodInfo, Site, Tuning, late
from methods.graph.removal import Change, Follows, Narrows
from models.errors import UserError
from models.user.code import is_user_spec
from models.user.pinned_code import code_label

Factory = Callable[[nn.Module, Tensor, Mapping[str, Any]], Compressor]
MethodRecord = tuple[MethodInfo, Factory]
_ROWS = 4096  # allocations whose costs are looked up at a time
_SCALES = 257  # uniform levels at which a method's share of FLOPs is taken; linear between


def split_parts(name: str) -> list[str]:
    """The methods that a name composes: `l1+kse`, `l1+/home/me/c++/method.py:MyMethod`; a folder may hold a plus."""
    parts: list[str] = []
    path = ""  # a file's, as far as the last plus
    for piece in name.split("+"):
        path = f"{path}+{piece}" if path else piece
        if is_user_spec(path) or "/" not in path:
            parts.append(path)
            path = ""
    return [*parts, path] if path else parts


def compose_records(records: Sequence[MethodRecord], known: Iterable[MethodInfo]) -> MethodRecord:
    """Record and factory of the methods one after the other; UserError if they do not go together."""
    infos = [info for info, _ in records]
    name = "+".join(info.name for info in infos)
    if [info.place for info in infos] != ["first", "second"]:
        raise UserError(f"methods cannot be composed as {name!r}: {how_to_compose(known)}")
    first, second = infos
    info = MethodInfo(
        name=name,
        summary=f"{first.summary}; then {second.summary}",
        source=f"{first.source}; {second.source}",
        shrinks_channels=first.shrinks_channels and second.shrinks_channels,
        needs_calibration=first.needs_calibration,
        has_centroids=second.has_centroids,
        options={f"{code_label(part.name)}.{option}": default
                 for part in infos for option, default in part.options.items()},
    )  # fmt: skip
    return info, partial(Composed, info, records)


def how_to_compose(known: Iterable[MethodInfo]) -> str:
    """What goes together, in words."""
    by_place: dict[str | None, list[str]] = {"first": [], "second": []}
    for info in known:
        by_place.setdefault(info.place, []).append(info.name)
    first, second = (", ".join(by_place[place]) for place in ("first", "second"))
    return f"one of {first} comes first and one of {second} second, as in l1+kse"


class Composed(Compressor):
    """A method that narrows at once, and one that follows it; neither is bound to more than the dense network."""

    def __init__(
        self,
        info: MethodInfo,
        records: Sequence[MethodRecord],
        network: nn.Module,
        example: Tensor,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(network, example, options)
        self.info = info
        self._parts = [code_label(part.name) for part, _ in records]
        self._first, self._second = (
            factory(network, example, _options_of(label, options))
            for label, (_, factory) in zip(self._parts, records, strict=True)
        )
        self.cost = ComposedCost(self._first, self._second)

    @late
    def sites(self) -> tuple[Site, ...]:
        pairs = zip(self._parts, (self._first, self._second), strict=True)
        return tuple(site for name, part in pairs for site in _on_common_scale(name, part))

    @late
    def skipped(self) -> dict[str, str]:
        pairs = zip(self._parts, (self._first, self._second), strict=True)
        return {_joined(name, layer): reason for name, part in pairs for layer, reason in part.skipped.items()}

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._first.calibrate(batches)
        self.cost = ComposedCost(self._first, self._second)  # other channels go now

    def compress(self, allocation: Allocation) -> nn.Module:
        first, second = self._split(allocation)
        return self._narrowed(first).compress(second)

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        return self._second.tuning(self._split(allocation or Allocation({}))[1], network, steps=steps, lr=lr)

    def centroids(self, network: nn.Module) -> list[Centroids]:
        return self._second.centroids(network)

    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        return self._second.pack(network)

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        widths, tables = self._split(allocation)
        first, second = _roles(self._first, self._second)
        return second.narrowed(first.outline(widths), None).unpack(tables, tensors)

    def _narrowed(self, allocation: Allocation) -> Compressor:
        """The second method on the network that the first leaves."""
        first, second = _roles(self._first, self._second)
        kept = first.removal_order().kept(self._first.levels(allocation))
        return second.narrowed(self._first.compress(allocation), kept)

    def _split(self, allocation: Allocation) -> tuple[Allocation, Allocation]:
        first, second = (
            Allocation({site.removeprefix(_joined(name, "")): setting for site, setting in allocation.items()
                        if site.startswith(_joined(name, ""))})
            for name in self._parts
        )  # fmt: skip
        return first, second


class ComposedCost:
    """The first method's cost, and what the second changes of the network that is then left."""

    def __init__(self, first: Compressor, second: Compressor) -> None:
        self._first, self._second = first, second

    @property
    def dense(self) -> Cost:
        return self._first.cost.dense

    @cached_property
    def _change(self) -> Change:
        first, second = _roles(self._first, self._second)
        return second.change(first.removal_order())

    def __call__(self, levels: Levels) -> Costs:
        """`levels` (n_allocations, n_sites), the first method's sites before the second's."""
        pieces = [self._costs(levels[start : start + _ROWS]) for start in range(0, max(len(levels), 1), _ROWS)]
        return Costs(*(np.concatenate(column) for column in zip(*pieces, strict=True)))

    def _costs(self, levels: Levels) -> Costs:
        count = len(self._first.sites)
        first, second = levels[:, :count], levels[:, count:]
        costs = self._first.cost(first)
        if not second.any():
            return costs
        changes = self._change(np.pad(first, ((0, 0), (1, 0))), second)
        return Costs(*(cost + change for cost, change in zip(costs, changes, strict=True)))


def _roles(first: Compressor, second: Compressor) -> tuple[Narrows, Follows]:
    """What the records promise of the two."""
    assert isinstance(first, Narrows)
    assert isinstance(second, Follows)
    return first, second


def _options_of(label: str, options: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{label}."
    return {option.removeprefix(prefix): value for option, value in options.items() if option.startswith(prefix)}


def _joined(method: str, site: str) -> str:
    return f"{method}:{site}"


def _on_common_scale(name: str, part: Compressor) -> tuple[Site, ...]:
    """The method's sites, a setting's strength being the share of FLOPs that it takes off if all are that strong."""
    if not part.sites:
        return ()
    scales = np.linspace(0, 1, _SCALES)
    levels = [np.searchsorted(site.strengths, scales + 1e-9, side="right") - 1 for site in part.sites]
    shares = 1 - part.cost(np.stack(levels, axis=1)).flops / max(part.cost.dense.flops, 1)
    rising = np.maximum.accumulate(shares.clip(0, 1))
    return tuple(
        replace(
            site, name=_joined(name, site.name), strengths=tuple(np.interp(site.strengths, scales, rising).tolist())
        )
        for site in part.sites
    )
