"""Targets of several measures, and of latency, against brute force and a clock that is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import Chain, every, rising, sites
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from methods.base import Costs, Levels, example_input
from methods.graph.trace import trace_layers
from methods.registry import create
from models.errors import UserError
from models.networks.catalog import build_network
from search.allocation.allocate import check_reachable, project_shape, uniform_shape
from search.allocation.budget import Budget
from search.allocation.minimise import minimise_damage, total_damage
from search.allocation.targets import TOLERANCE, parse_target, parse_targets
from search.latency.check import check_prediction
from search.latency.layer_times import measure_grid, narrow_layer
from search.latency.table import latency_table


class TwoFaced(Chain):
    """A chain whose parameters weigh its layers otherwise than its FLOPs do."""

    def __call__(self, levels: Levels) -> Costs:
        kept = self.channels - levels
        ones = np.ones((len(levels), 1), dtype=np.int64)
        weights = np.hstack([3 * ones, kept]) * np.hstack([kept, self.classes * ones])
        flops = (weights * self.areas).sum(1).astype(np.int64)
        params = weights.sum(1).astype(np.int64)
        return Costs(flops, params, 4 * params)


def two_targets(seed: int) -> tuple[TwoFaced, Budget, list[int]]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(4, 8, 4).tolist()
    cost = TwoFaced([count + 1 for count in counts], rng.integers(1, 40, 5).tolist())
    costs = cost(every(counts))
    limits = {name: int(np.quantile(getattr(costs, name), rng.uniform(0.2, 0.6))) for name in ("flops", "params")}
    return cost, Budget(limits, cost), counts


def kept_to(budget: Budget, costs: Costs) -> np.ndarray:
    return (costs.flops <= budget.limits["flops"]) & (costs.params <= budget.limits["params"])


@pytest.mark.parametrize("seed", range(12))
def test_two_targets_by_brute_force(seed: int) -> None:
    cost, budget, counts = two_targets(seed)
    rng = np.random.default_rng(seed)
    damage = [rising(rng, count) for count in counts]
    everything = every(counts)
    feasible = everything[kept_to(budget, cost(everything))]
    best = min(total_damage(damage, levels) for levels in feasible)
    levels = minimise_damage(damage, budget)
    assert kept_to(budget, cost(levels[None])).all()
    assert total_damage(damage, levels) <= 1.05 * best + 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_projection_keeps_to_both_and_leaves_no_room(seed: int) -> None:
    cost, budget, counts = two_targets(seed)
    solution = project_shape(uniform_shape(4), sites(counts), budget)
    assert kept_to(budget, cost(solution.levels[None])).all()
    exact = cost(solution.levels[None])
    gaps = {
        name: (limit - int(getattr(exact, name)[0])) / getattr(cost.dense, name)
        for name, limit in budget.limits.items()
    }
    assert solution.met == (min(gaps.values()) <= TOLERANCE)
    assert budget.binding_measures(solution.levels) == [
        name for name, gap in gaps.items() if gap <= min(gaps.values()) + TOLERANCE
    ]
    for index in np.flatnonzero(solution.levels):
        relaxed = solution.levels.copy()
        relaxed[index] -= 1
        assert solution.met or not kept_to(budget, cost(relaxed[None])).all()


@pytest.mark.parametrize("measure", ["params", "bytes"])
def test_each_measure_is_refused_with_its_own_range(measure: str) -> None:
    cost = Chain([4, 3], [9, 4, 1])
    ladder, figures = sites([4, 3]), getattr(cost(every([4, 3])), measure)
    with pytest.raises(UserError) as caught:
        check_reachable(parse_target(f"{measure} 0.0001"), ladder, cost, method="l1", network="toy")
    message = str(caught.value)
    assert "out of reach" in message
    assert f"kept {figures.min() / figures.max():.4f} to 1" in message
    assert {"params": "parameters", "bytes": "bytes"}[measure] in message


def test_one_loose_target_beside_a_binding_one_is_no_error() -> None:
    cost = Chain([4, 3], [9, 4, 1])
    both = parse_target("flops 0.5 + params 100M")
    budget = check_reachable(both, sites([4, 3]), cost, method="l1", network="toy")
    assert budget.binding_measures(project_shape(uniform_shape(2), sites([4, 3]), budget).levels) == ["flops"]


@pytest.mark.parametrize(
    ("text", "limits"),
    [("0.5", {"flops": 500}), ("params 2x", {"params": 100}), ("bytes 0.5kB", {"bytes": 500}),
     ("latency 5ms", {"latency": 5_000_000}), ("latency 0.6 + 50%", {"flops": 500, "latency": 600_000}),
     ("Params 40% + flops 0.1K", {"flops": 100, "params": 80})],
)  # fmt: skip
def test_what_may_be_written(text: str, limits: dict[str, int]) -> None:
    dense = {"flops": 1000, "params": 200, "bytes": 800, "latency": 1_000_000}
    target = parse_target(text)
    assert {term.measure: term.limit_for(dense[term.measure]) for term in target.terms} == limits
    assert parse_target(target.asked) == target


@pytest.mark.parametrize(
    "text", ["params", "params 2", "params 3ms", "latency 5M", "flops 0.5 + flops 0.3", "0.5 +", "sites 3"]
)
def test_what_may_not(text: str) -> None:
    with pytest.raises(UserError):
        parse_target(text)


def test_targets_of_different_measures_are_never_mixed() -> None:
    with pytest.raises(UserError, match="same measures"):
        parse_targets("0.5,params 0.4")


# ---- latency: a clock that charges so much a multiply-accumulate of a layer, and so much an activation


class FakeTime:
    """Seconds by arithmetic: 1 ns for 10 MACs of a layer; in a network also 2 ns for an activation, and 5 µs.

    A layer alone seems to take `alone` times as long as it does in the network. Every round but one is disturbed:
    something else takes the machine for up to ten times as long.
    """

    def __init__(self, alone: float = 1.0, rounds: int = 4) -> None:
        self.calls, self.alone, self.rounds, self.rng = 0, alone, rounds, np.random.default_rng(0)

    def __call__(self, runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        self.calls += len(runs)
        return [self._disturbed(self._seconds(run)) for run in runs]

    def _disturbed(self, seconds: float) -> list[float]:
        found = seconds * (1 + self.rng.uniform(0, 9, self.rounds))
        found[self.rng.integers(self.rounds)] = seconds
        return list(found)

    def _seconds(self, run: Callable[[], object]) -> float:
        seen: list[tuple[int, int]] = []

        def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> None:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                places = outputs.numel() // outputs.shape[0] // layer.weight.shape[0]
                seen.append((places * layer.weight.numel(), outputs.numel() // outputs.shape[0]))

        hook = nn.modules.module.register_module_forward_hook(note)  # type: ignore[arg-type]
        try:
            with torch.no_grad():
                run()
        finally:
            hook.remove()
        work = 0.1e-9 * sum(macs for macs, _ in seen)
        return self.alone * work if len(seen) == 1 else work + 2e-9 * sum(size for _, size in seen) + 5e-6


def small(method: str = "l1") -> Any:
    network = build_network("small", classes=10, channels=1)
    return create(method, network, example_input((1, 8, 8)))


@pytest.mark.parametrize("alone", [1.0, 0.7, 1.6])
def test_the_table_is_exact_where_layers_cost_what_they_multiply(tmp_path: Path, alone: float) -> None:
    """Whatever disturbs single rounds, and whether layers run alone as they do among others."""
    compressor = small()
    table = latency_table(compressor, batch=1, results=tmp_path, say=lambda line: None, time=FakeTime(alone))
    rng = np.random.default_rng(0)
    levels = np.stack([rng.integers(0, len(site.settings), 20) for site in compressor.sites], axis=1)
    levels[0] = 0
    outputs = dict(zip(compressor.cost.layers, compressor.cost.layer_widths(levels)[1].T, strict=True))
    uses = trace_layers(compressor.network, compressor.example)
    activations = sum(outputs[name] * use.positions for name, use in uses.items())
    by_hand = 0.1 * compressor.cost(levels).flops + 2 * activations + 5000
    assert table(levels) == pytest.approx(by_hand, rel=0.01)
    assert table.dense_nanoseconds == pytest.approx(by_hand[0], rel=0.01)


def test_who_waits_is_told_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.latency.progress.PATIENCE", 0.0)
    said: list[str] = []
    latency_table(small(), batch=1, results=tmp_path, say=said.append, time=FakeTime())
    shares = [sentence.split()[2:5:2] for sentence in said[1:]]
    steps = int(shares[0][1])
    assert shares == [[str(done), str(steps)] for done in range(1, steps)]


def test_it_is_measured_once(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        clock = FakeTime()
        latency_table(small(), batch=1, results=tmp_path, say=said.append, time=clock)
    assert clock.calls == 0
    assert len(said) == 1
    for path in (tmp_path / "latency").iterdir():
        path.write_text("{")
    latency_table(small(), batch=1, results=tmp_path, say=said.append, time=clock)
    assert clock.calls > 0


def test_methods_that_run_dense_kernels_are_refused(tmp_path: Path) -> None:
    for method in ("kse", "kernel-clustering", "l1+kse"):
        with pytest.raises(UserError, match="no latency is gained"):
            latency_table(small(method), batch=1, results=tmp_path, say=print)
    assert not list(tmp_path.iterdir())


def test_wider_is_never_faster() -> None:
    rng = np.random.default_rng(0)
    grid = measure_grid(
        nn.Conv2d(16, 32, 3), [(16, 8, 8)], (1, 1), 1, lambda runs: rng.uniform(1, 2, (len(runs), 3)).tolist()
    )
    times = np.array(grid.nanoseconds)
    assert (grid.inputs[0], grid.inputs[-1], grid.outputs[0], grid.outputs[-1]) == (1, 16, 1, 32)
    assert (np.diff(times, axis=0) >= 0).all()
    assert (np.diff(times, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("layer", "shape", "inputs", "outputs"),
    [(nn.Conv2d(8, 16, 3, groups=4), (8, 6, 6), 4, 12), (nn.Conv2d(8, 8, 3, groups=8), (8, 6, 6), 1, 5),
     (nn.Linear(20, 10), (20,), 7, 10), (nn.ConvTranspose2d(6, 4, 2), (6, 5, 5), 3, 2)],
)  # fmt: skip
def test_narrowed_layers_run(layer: nn.Module, shape: tuple[int, ...], inputs: int, outputs: int) -> None:
    thin = narrow_layer(layer, inputs, outputs)
    width = outputs if getattr(layer, "groups", 1) == 8 else inputs
    assert thin(torch.randn(2, width, *shape[1:])).shape[1] == outputs


def test_what_is_predicted_of_a_network_is_what_the_table_says(tmp_path: Path) -> None:
    """How near that is to what is measured is shown by `benchmarks/latency.py`."""
    compressor = small()
    table = latency_table(compressor, batch=1, results=tmp_path, say=lambda line: None, time=FakeTime())
    levels = np.array([len(site.settings) // 2 for site in compressor.sites])
    checked = check_prediction(compressor, levels, table)
    predicted, dense = table(levels[None])[0] / 1e6, table(0 * levels[None])[0] / 1e6
    assert (checked.predicted_ms, checked.predicted_dense_ms) == pytest.approx((predicted, dense))
    assert checked.relative_error == pytest.approx((predicted - checked.compressed_ms) / checked.compressed_ms)
    assert checked.kept_fraction == pytest.approx(1 / checked.speed_up)
    compressed = compressor.compress(compressor.allocation(levels))
    assert checked.theoretical == pytest.approx(_flops(compressor.network) / _flops(compressed))


def _flops(network: nn.Module) -> int:
    """By torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 1, 8, 8))
    return counter.get_total_flops()
