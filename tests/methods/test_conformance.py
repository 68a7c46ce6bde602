"""What every registered method must keep to, on networks with every kind of coupling. Rows come from the registry."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from small_nets import CLASSES, SHAPE, SMALL_NETS, batches, small_net
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.base import Allocation, Compressor, Levels, example_input
from methods.registry import create, method_info, methods
from methods.tables.codebook import CodebookConv2d
from models.errors import UserError

METHODS = [*methods(), "l1+kse", "l1+kernel-clustering"]
NETWORKS = sorted(SMALL_NETS)
STEPS = 3


def bind(method: str, network: nn.Module, options: dict[str, Any] | None = None) -> Compressor:
    compressor = create(method, network, example_input(SHAPE), options)
    if method_info(method).needs_calibration:
        compressor.calibrate(batches(2))
    return compressor


def uniform(compressor: Compressor, strength: float) -> Levels:
    """The last setting of every site that is at most so strong."""
    return np.array([np.searchsorted(site.strengths, strength, side="right") - 1 for site in compressor.sites])


def some_levels(compressor: Compressor) -> list[Levels]:
    """Dense, weak, strong, strongest, and two random allocations."""
    sizes = [len(site.settings) for site in compressor.sites]
    random = np.random.default_rng(0)
    return [np.zeros(len(sizes), dtype=np.intp), uniform(compressor, 0.3), uniform(compressor, 0.6),
            np.array(sizes, dtype=np.intp) - 1, *(random.integers(sizes) for _ in range(2))]  # fmt: skip


def judged(compressor: Compressor, allocation: Allocation, steps: int = 0) -> nn.Module:
    """Compressed, fine-tuned for a few steps, helpers folded away."""
    small = compressor.compress(allocation).train()
    tuning = compressor.tuning(allocation, small, steps=max(steps, 1), lr=0.01)
    optimizer = torch.optim.SGD(tuning.parameter_groups(small), lr=0.01, momentum=0.9)
    for step, (inputs, labels) in enumerate(batches(steps)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(small(inputs), labels).backward()
        tuning.after_backward(small, step)
        optimizer.step()
    return tuning.finish(small).eval()


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def convolutions(layer: CodebookConv2d) -> int:
    """2-D convolutions that a layer needs if kernels of one codeword share theirs within a filter, or an input."""
    table, zeros = layer.index.tolist(), len(layer.bank) * (1 if layer.orders is None else len(layer.orders))
    filters = layer.out_channels // layer.groups
    columns = [[row[c] for row in table[start : start + filters]]
               for start in range(0, layer.out_channels, filters) for c in range(layer.index.shape[1])]  # fmt: skip
    return min(sum(len(set(line) - {zeros}) for line in lines) for lines in (table, columns))


def counted_flops(network: nn.Module, example: Tensor | None = None) -> int:
    """Multiply-accumulates for one input by torch's own counter, which counts two for each; tables by hand."""
    repeated = 0

    def tabled(layer: CodebookConv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal repeated
        size = layer.kernel_size[0] * layer.kernel_size[1] * output[0, 0].numel()
        repeated += (layer.index.numel() - convolutions(layer)) * size

    handles = [module.register_forward_hook(tabled)
               for module in network.modules() if isinstance(module, CodebookConv2d)]  # fmt: skip
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network((example_input(SHAPE) if example is None else example)[:1])
    for handle in handles:
        handle.remove()
    return counter.get_total_flops() // 2 - repeated


@pytest.mark.parametrize("method", METHODS)
def test_record(method: str) -> None:
    info = method_info(method)
    assert info.name == method
    assert info.summary
    assert info.source
    with pytest.raises(UserError):
        create(method, small_net("plain"), example_input(SHAPE), {"no such option": 1})


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
class TestConformance:
    def test_ladders(self, method: str, network: str) -> None:
        compressor = bind(method, small_net(network))
        names = {name for name, _ in compressor.network.named_modules()}
        assert compressor.sites
        for index, site in enumerate(compressor.sites):
            assert len(site.settings) == len(set(site.settings)) > 1
            assert set(site.layers) <= names
            assert site.strengths[0] == 0
            assert list(site.strengths) == sorted(site.strengths)
            assert site.strengths[-1] <= 1
            levels = np.zeros((len(site.settings), len(compressor.sites)), dtype=np.intp)
            levels[:, index] = np.arange(len(site.settings))
            for figures in compressor.cost(levels):
                assert (np.diff(figures) <= 0).all(), site.name
        assert all(reason for reason in compressor.skipped.values())

    def test_dense_is_the_network(self, method: str, network: str) -> None:
        dense = small_net(network)
        compressor = bind(method, dense)
        params = sum(parameter.numel() for parameter in dense.parameters())
        cost = compressor.cost_of(compressor.allocation(some_levels(compressor)[0]))
        assert cost == compressor.cost.dense == (counted_flops(dense), params, 4 * params)
        x = batches(1)[0][0]
        with torch.no_grad():
            torch.testing.assert_close(judged(compressor, Allocation({}))(x), dense(x), rtol=1e-4, atol=1e-4)

    def test_network_is_left_alone(self, method: str, network: str) -> None:
        dense = small_net(network)
        next(dense.children()).train()
        before, modes = state(dense), [module.training for module in dense.modules()]
        random_state = torch.get_rng_state()
        compressor = bind(method, dense)
        small = compressor.compress(compressor.allocation(uniform(compressor, 0.5)))
        for parameter in small.parameters():
            parameter.data.zero_()
        assert same(before, state(dense))
        assert modes == [module.training for module in dense.modules()]
        assert torch.equal(random_state, torch.get_rng_state())
        assert all(parameter.grad is None for parameter in dense.parameters())
        assert small.training == dense.training

    def test_same_seed_same_result(self, method: str, network: str) -> None:
        results = []
        for _ in range(2):
            compressor = bind(method, small_net(network))
            results.append(judged(compressor, compressor.allocation(uniform(compressor, 0.5)), STEPS))
        assert same(state(results[0]), state(results[1]))

    def test_costs(self, method: str, network: str) -> None:
        """Output shape kept; FLOPs and params as counted."""
        compressor = bind(method, small_net(network))
        table = np.array(some_levels(compressor))
        costs = compressor.cost(table)
        for row, levels in enumerate(table):
            small = judged(compressor, compressor.allocation(levels))
            with torch.no_grad():
                assert small(example_input(SHAPE)).shape == (2, CLASSES)
            assert costs.params[row] == sum(parameter.numel() for parameter in small.parameters())
            assert costs.flops[row] == counted_flops(small)
            assert compressor.cost_of(compressor.allocation(levels)) == tuple(figure[row] for figure in costs)

    def test_packing(self, method: str, network: str) -> None:
        """Stored bytes as predicted; what is read back computes the same, to the bit."""
        compressor = bind(method, small_net(network))
        buffers = {name for name, _ in compressor.network.named_buffers()}
        x = batches(1)[0][0]
        for levels in some_levels(compressor):
            allocation = compressor.allocation(levels)
            small = judged(compressor, allocation, STEPS)
            stored = load(save(compressor.pack(small)))
            size = sum(tensor.nbytes for name, tensor in stored.items() if name not in buffers)
            # Two hundredths, and what rounding tables up to whole bytes costs networks as small as these.
            assert abs(size - compressor.cost_of(allocation).bytes) <= 0.02 * size + 32 * len(compressor.sites)
            twin = compressor.unpack(allocation, stored).eval()
            with torch.no_grad():
                assert torch.equal(twin(x), small(x))

    def test_trains_and_copies(self, method: str, network: str) -> None:
        compressor = bind(method, small_net(network).train())
        allocation = compressor.allocation(uniform(compressor, 0.5))
        small = compressor.compress(allocation)
        assert all(module.training for module in small.modules())
        twin = copy.deepcopy(small)
        assert same(state(small), state(twin))
        twin.load_state_dict(small.state_dict())
        before = state(twin)
        inputs, labels = batches(1)[0]
        nn.functional.cross_entropy(small(inputs), labels).backward()
        groups = compressor.tuning(allocation, small, steps=10, lr=0.01).parameter_groups(small)
        trained = [parameter for group in groups for parameter in group["params"]]
        assert len(trained) == len({id(parameter) for parameter in trained}) == len(list(small.parameters()))
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
        assert same(before, state(twin))  # the copy shares nothing
