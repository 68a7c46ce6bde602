"""Every registered method keeps to the contract; rows come from the registry. Faults that are planted are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.base import Allocation, Costs, Levels, MethodInfo, Tuning
from methods.filters.filter_pruning import FilterPruning
from methods.graph.filter_norms import filter_norms
from methods.registry import methods
from methods.testing import CHECKS, NETWORKS, MethodCase
from methods.testing import conformance as checks
from methods.testing.small_networks import small_network
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective

CHOICES = ("kse-or-tucker", "l1+svd-or-kernel-clustering-or-kse")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", [*methods(), "l1+kse", "l1+kernel-clustering", "obs+tucker", *CHOICES])
def test_conformance(method: str, network: str, check: Callable[[MethodCase], None]) -> None:
    check(MethodCase(method, network))


class Sound(FilterPruning):
    """Filter pruning, as an author's class that no registry knows."""

    info = MethodInfo("sound", "smallest norm first", "a test")

    def __init__(self, network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> None:
        super().__init__(self.info, lambda pruning, group: filter_norms(pruning.network, group, 1),
                         network, example, options)  # fmt: skip


class WithoutSummary(Sound):
    info = MethodInfo("mute", "", "a test")


class RisingCost(Sound):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        plain = self.cost

        class Cost:
            dense = plain.dense

            def __call__(self, levels: Levels) -> Costs:
                costs = plain(levels)
                return costs._replace(params=costs.params + 100_000 * (levels.sum(1) == 2))

        self.cost = Cost()  # type: ignore[assignment]


class TooStrong(Sound):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sites = tuple(
            dataclasses.replace(site, strengths=tuple(2 * strength for strength in site.strengths))
            for site in self.sites
        )


class WrongCost(Sound):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        plain = self.cost

        class Cost:
            dense = plain.dense

            def __call__(self, levels: Levels) -> Costs:
                costs = plain(levels)
                return costs._replace(flops=costs.flops - (costs.flops < plain.dense.flops))

        self.cost = Cost()  # type: ignore[assignment]


class ChangesOutputs(Sound):
    def compress(self, allocation: Allocation) -> nn.Module:
        small = super().compress(allocation)
        small.linear.bias.data += 0.01
        return small


class Intrusive(Sound):
    def compress(self, allocation: Allocation) -> nn.Module:
        small = super().compress(allocation)
        small.linear.weight = self.network.linear.weight  # type: ignore[union-attr]
        return small


class Impatient(Sound):
    def compress(self, allocation: Allocation) -> nn.Module:
        torch.rand(1)
        return super().compress(allocation)


class Unrepeatable(Sound):
    calls = 0

    def compress(self, allocation: Allocation) -> nn.Module:
        small = super().compress(allocation)
        Unrepeatable.calls += 1
        small.linear.bias.data += 1e-6 * Unrepeatable.calls
        return small


class HalfPacked(Sound):
    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        tensors = super().pack(network)
        return {name: tensor.half().float() if tensor.is_floating_point() else tensor
                for name, tensor in tensors.items()}  # fmt: skip


class Bloated(Sound):
    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        return {**super().pack(network), "padding": torch.zeros(1000)}

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        return super().unpack(allocation, {name: tensors[name] for name in tensors if name != "padding"})


class Forgetful(Sound):
    def tuning(self, *_: Any, **__: Any) -> Tuning:
        class WithoutBias(Tuning):
            def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
                return [{"params": list(network.parameters())[:-1]}]

        return WithoutBias()


class NeedsCalibration(Sound):
    info = dataclasses.replace(Sound.info, needs_calibration=True)
    batches = 0

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:
        NeedsCalibration.batches = len(list(batches))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_class_that_nothing_is_wrong_with(check: Callable[[MethodCase], None]) -> None:
    check(MethodCase(Sound, lambda: small_network("residual", seed=3)))


def test_a_method_that_needs_batches_gets_them() -> None:
    checks.check_ladders(MethodCase(NeedsCalibration, "plain"))
    assert NeedsCalibration.batches == 2


@pytest.mark.parametrize(("faulty", "check", "words"), [
    (WithoutSummary, checks.check_record, "no summary"),
    (RisingCost, checks.check_ladders, "params rise along the ladder"),
    (TooStrong, checks.check_ladders, "is more than 1"),
    (ChangesOutputs, checks.check_dense, "Tensor-likes are not close"),
    (Intrusive, checks.check_network_untouched, "the network's tensors have changed"),
    (Impatient, checks.check_network_untouched, "the global random state has changed"),
    (Unrepeatable, checks.check_repeatable, "two runs from the same seed differ"),
    (WrongCost, checks.check_costs, "FLOPs, counted"),
    (HalfPacked, checks.check_packing, "computes something else"),
    (Bloated, checks.check_packing, "bytes predicted"),
    (Forgetful, checks.check_training, "is not given every parameter"),
])  # fmt: skip
def test_a_fault_is_found(faulty: type[Sound], check: Callable[[MethodCase], None], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check(MethodCase(faulty, "plain"))
