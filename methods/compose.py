"""Two methods as one, `first+second`: the second works on the network that the first has narrowed.

The composition has the sites of both, named `l1:layer1.0.conv1`, `kse:layer1.0.conv1`. The first method removes
channels in a fixed order, so that the remaining channels of every allocation are known, and the second method's
measurements of the dense network hold for them. Costs stay arithmetic and equal those of the final network to the unit
(`graph/removal.py`).

Strengths are put on one scale, the share of FLOPs that a method saves when all of its sites have that strength, so that
at a uniform level both methods save the same share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from methods.allocations import Allocation, Cost, Costs, Levels, Site
from methods.base import Centroids, Compressor, MethodInfo, Tuning, lazy_attribute
from methods.graph.removal import Change, Follows, Narrows
from methods.method_names import method_label
from methods.record import MethodRecord, bind_in_turn
from models.execution.inputs import Example
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective

_ROWS = 4096  # allocations whose costs are looked up at a time, to bound memory
_SCALES = 257  # uniform levels at which a method's share of FLOPs is computed; linear in between


class Composed(Compressor):
    """A method that narrows, and one that follows on the narrowed network; both are bound to the dense network."""

    def __init__(
        self,
        info: MethodInfo,
        records: Sequence[MethodRecord],
        network: nn.Module,
        example: Example,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(network, example, options)
        self.info = info
        self._records = records
        self._labels = [method_label(member.name) for member, _ in records]
        self._first, self._second = bind_in_turn(records, network, example, options)
        # The first method may put plain layers in the place of some; the second finds its layers among these.
        self.network = self._first.network
        self.cost = ComposedCost(self._first, self._second)

    @lazy_attribute
    def sites(self) -> tuple[Site, ...]:
        return tuple(site for label, method in self._labelled() for site in _on_common_scale(label, method))

    @lazy_attribute
    def skipped(self) -> dict[str, str]:
        layers = ((label, *item) for label, method in self._labelled() for item in method.skipped.items())
        return {_site_name(label, layer): reason for label, layer, reason in layers}

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:
        loaded = list(batches)
        for member, (info, _) in zip((self._first, self._second), self._records, strict=True):
            if info.needs_calibration:
                member.calibrate(loaded, objective)
        # Calibration changes the order of removal, and may change ladders.
        self.cost = ComposedCost(self._first, self._second)
        for computed in ("sites", "skipped"):
            self.__dict__.pop(computed, None)

    def compress(self, allocation: Allocation) -> nn.Module:
        first, second = self._split_allocation(allocation)
        narrowing, following = _check_roles(self._first, self._second)
        channels = narrowing.removal_order().kept_channels(self._first.levels(first))
        return following.bind_narrowed(self._first.compress(first), channels).compress(second)

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        return self._second.tuning(self._split_allocation(allocation or Allocation({}))[1], network, steps=steps, lr=lr)

    def centroids(self, network: nn.Module) -> list[Centroids]:
        return self._second.centroids(network)

    @property
    def unregistered_tensors(self) -> Sequence[str]:
        return self._first.unregistered_tensors

    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        return self._second.pack(network)

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        first, second = self._split_allocation(allocation)
        narrowing, following = _check_roles(self._first, self._second)
        return following.bind_narrowed(narrowing.outline_network(first), None).unpack(second, tensors)

    def _labelled(self) -> Iterable[tuple[str, Compressor]]:
        return zip(self._labels, (self._first, self._second), strict=True)

    def _split_allocation(self, allocation: Allocation) -> tuple[Allocation, Allocation]:
        first, second = (
            Allocation({site.removeprefix(_site_name(label, "")): setting for site, setting in allocation.items()
                        if site.startswith(_site_name(label, ""))})
            for label in self._labels
        )  # fmt: skip
        return first, second


class ComposedCost:
    """The first method's cost, plus the change by the second on the network that the first leaves."""

    def __init__(self, first: Compressor, second: Compressor) -> None:
        self._first, self._second = first, second

    @property
    def dense(self) -> Cost:
        return self._first.cost.dense

    @cached_property
    def _second_change(self) -> Change:
        first, second = _check_roles(self._first, self._second)
        return second.cost_change(first.removal_order())

    def __call__(self, levels: Levels) -> Costs:
        """`levels` (n_allocations, n_sites), the first method's sites before the second's."""
        starts = range(0, max(len(levels), 1), _ROWS)
        pieces = [self._piece_costs(levels[start : start + _ROWS]) for start in starts]
        return Costs(*(np.concatenate(column) for column in zip(*pieces, strict=True)))

    def _piece_costs(self, levels: Levels) -> Costs:
        count = len(self._first.sites)
        first, second = levels[:, :count], levels[:, count:]
        costs = self._first.cost(first)
        if not second.any():
            return costs
        changes = self._second_change(np.pad(first, ((0, 0), (1, 0))), second)
        return Costs(*(cost + change for cost, change in zip(costs, changes, strict=True)))


def _check_roles(first: Compressor, second: Compressor) -> tuple[Narrows, Follows]:
    """Both methods under the protocols that their records promise."""
    assert isinstance(first, Narrows)
    assert isinstance(second, Follows)
    return first, second


def _site_name(method: str, site: str) -> str:
    return f"{method}:{site}"


def _on_common_scale(name: str, compressor: Compressor) -> tuple[Site, ...]:
    """The method's sites with new strengths: the share of FLOPs saved when all sites have the setting's strength."""
    if not compressor.sites:
        return ()
    scales = np.linspace(0, 1, _SCALES)
    levels = [np.searchsorted(site.strengths, scales + 1e-9, side="right") - 1 for site in compressor.sites]
    shares = 1 - compressor.cost(np.stack(levels, axis=1)).flops / max(compressor.cost.dense.flops, 1)
    rising = np.maximum.accumulate(shares.clip(0, 1))
    strengths = [tuple(np.interp(site.strengths, scales, rising).tolist()) for site in compressor.sites]
    return tuple(
        replace(site, name=_site_name(name, site.name), strengths=rescaled, family=name)
        for site, rescaled in zip(compressor.sites, strengths, strict=True)
    )
