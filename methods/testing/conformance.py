"""Checks that every method must pass on any network; each raises AssertionError with the fault."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, Levels, MethodInfo, example_input
from methods.registry import create, method_info
from methods.tables.codebook import CodebookConv
from methods.testing.small_networks import CLASSES, input_shape, random_batches, small_network
from models.errors import UserError
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Example, Inputs

STEPS = 3  # steps of fine-tuning in checks that train


def count_flops(network: nn.Module, example: Example) -> int:
    """Multiply-accumulates for one input by torch's counter, less those that tables of kernels share."""
    from torch.utils.flop_counter import FlopCounterMode  # imported here: it takes 0.2 s, which only tests need

    repeated = 0

    def subtract_shared(layer: CodebookConv, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal repeated
        positions = (inputs[0] if layer.transposed else output)[:, 0].numel()
        repeated += (layer.index.numel() - count_convolutions(layer)) * math.prod(layer.kernel_size) * positions

    layers = [module for module in network.modules() if isinstance(module, CodebookConv)]
    hooks = forward_hooks(after=[(layer, subtract_shared) for layer in layers])
    with hooks, torch.no_grad(), FlopCounterMode(display=False) as counter:
        Inputs.of(example).first()(network)
    return counter.get_total_flops() // 2 - repeated  # torch counts multiplication and addition


def count_convolutions(layer: CodebookConv) -> int:
    """Convolutions by single kernels of a layer where those of one codeword share one in a filter, or in an input."""
    table, zeros = layer.index.tolist(), len(layer.bank) * (1 if layer.orders is None else len(layer.orders))
    filters = layer.out_channels // layer.groups
    columns = [[filter_row[c] for filter_row in table[start : start + filters]]
               for start in range(0, layer.out_channels, filters) for c in range(layer.index.shape[1])]  # fmt: skip
    return min(sum(len(set(codewords) - {zeros}) for codewords in directions) for directions in (table, columns))


@dataclass(frozen=True)
class MethodCase:
    """A method on a network."""

    method: str | type[Compressor]
    """A name, `path/to/file.py:MyMethod`, a composition of these, or the class itself."""
    network: str | Callable[[], nn.Module]
    """One of `NETWORKS`, or a function that builds the same network, weights included, in every call."""
    options: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    """(C, H, W) of the network's inputs, or (C, L), or (C, D, H, W); of one of `NETWORKS` it is known."""
    classes: int = CLASSES
    count_flops: Callable[[nn.Module, Tensor], int] = count_flops
    """Another way to the FLOPs of a compressed network, for layers of a method's own that torch cannot count."""

    @property
    def info(self) -> MethodInfo:
        return method_info(self.method) if isinstance(self.method, str) else self.method.info

    @property
    def example(self) -> Tensor:
        return example_input(self.input_shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What one input of the network looks like."""
        return self.shape or input_shape(self.network if isinstance(self.network, str) else "")

    def build_network(self) -> nn.Module:
        return small_network(self.network) if isinstance(self.network, str) else self.network()

    def create_compressor(self, network: nn.Module, options: Mapping[str, Any]) -> Compressor:
        if isinstance(self.method, str):
            return create(self.method, network, self.example, options)
        return self.method(network, self.example, {**self.info.options, **options})

    def bind_method(self, network: nn.Module | None = None) -> Compressor:
        """The method bound to a network, by default a new one, and calibrated if the method needs it."""
        compressor = self.create_compressor(self.build_network() if network is None else network, self.options)
        if self.info.needs_calibration:
            compressor.calibrate(self.make_batches(2))
        return compressor

    def make_batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        return random_batches(count, shape=self.input_shape, classes=self.classes)

    def finish_compressed(self, compressor: Compressor, allocation: Allocation, steps: int = 0) -> nn.Module:
        return train_compressed(compressor, allocation, self.make_batches(steps))


def train_compressed(
    compressor: Compressor, allocation: Allocation, batches: Sequence[tuple[Tensor, Tensor]] = ()
) -> nn.Module:
    """A network that is compressed, fine-tuned by one step per batch, and finished."""
    small = compressor.compress(allocation).train()
    tuning = compressor.tuning(allocation, small, steps=max(len(batches), 1), lr=0.01)
    optimizer = torch.optim.SGD(tuning.parameter_groups(small), lr=0.01, momentum=0.9)
    for step, (inputs, labels) in enumerate(batches):
        optimizer.zero_grad()
        nn.functional.cross_entropy(small(inputs), labels).backward()
        tuning.after_backward(small, step)
        optimizer.step()
    return tuning.finish(small).eval()


def uniform_levels(compressor: Compressor, strength: float) -> Levels:
    """The last setting of every site whose strength is at most `strength`."""
    return np.array([np.searchsorted(site.strengths, strength, side="right") - 1 for site in compressor.sites])


def various_levels(compressor: Compressor) -> list[Levels]:
    """Dense, weak, strong, strongest, and two random allocations."""
    sizes = [len(site.settings) for site in compressor.sites]
    random = np.random.default_rng(0)
    return [np.zeros(len(sizes), dtype=np.intp), uniform_levels(compressor, 0.3), uniform_levels(compressor, 0.6),
            np.array(sizes, dtype=np.intp) - 1, *(random.integers(sizes) for _ in range(2))]  # fmt: skip


def _copy_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _equal_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_record(case: MethodCase) -> None:
    """The record has a name, a summary and a source; unknown options are refused."""
    info = case.info
    assert info.name, "the record has no name"
    assert info.summary, "the record has no summary"
    assert info.source, "the record has no source"
    if isinstance(case.method, str):
        try:
            case.create_compressor(case.build_network(), {"no such option": 1})
        except UserError:
            return
        raise AssertionError("an unknown option is not refused")


def check_ladders(case: MethodCase) -> None:
    """Settings differ, strengths rise from 0 to at most 1, and no setting costs more than the one before it."""
    compressor = case.bind_method()
    modules = {name for name, _ in compressor.network.named_modules()}
    assert compressor.sites, "the method finds no site"
    for index, site in enumerate(compressor.sites):
        assert len(site.settings) == len(set(site.settings)) > 1, f"{site.name}: settings repeat, or there is only one"
        assert set(site.layers) <= modules, f"{site.name}: {set(site.layers) - modules} are no modules"
        strengths = list(site.strengths)
        assert strengths[0] == 0, f"{site.name}: its dense setting has strength {strengths[0]}"
        assert strengths == sorted(strengths), f"{site.name}: strengths fall: {strengths}"
        assert strengths[-1] <= 1, f"{site.name}: a strength of {strengths[-1]} is more than 1"
        levels = np.zeros((len(site.settings), len(compressor.sites)), dtype=np.intp)
        levels[:, index] = np.arange(len(site.settings))
        for name, figures in compressor.cost(levels)._asdict().items():
            assert (np.diff(figures) <= 0).all(), f"{site.name}: {name} rise along the ladder: {figures}"
    assert all(compressor.skipped.values()), "a layer is skipped without a reason"


def check_dense(case: MethodCase) -> None:
    """The dense allocation costs and computes what the network does."""
    dense = case.build_network()
    compressor = case.bind_method(dense)
    params = sum(parameter.numel() for parameter in dense.parameters())
    counted = (case.count_flops(dense, case.example), params, 4 * params)
    cost = compressor.cost_of(compressor.allocation(np.zeros(len(compressor.sites), dtype=np.intp)))
    assert cost == compressor.cost.dense == counted, f"{cost}, {compressor.cost.dense} and counted {counted} differ"
    inputs = case.make_batches(1)[0][0]
    with torch.no_grad():
        outputs = case.finish_compressed(compressor, Allocation({}))(inputs)
        torch.testing.assert_close(outputs, dense(inputs), rtol=1e-4, atol=1e-4)


def check_network_untouched(case: MethodCase) -> None:
    """Weights, modes, gradients and the random state do not change; the compressed network shares no tensor."""
    dense = case.build_network()
    next(dense.children()).train()
    before, modes = _copy_state(dense), [module.training for module in dense.modules()]
    random_state = torch.get_rng_state()
    compressor = case.bind_method(dense)
    small = compressor.compress(compressor.allocation(uniform_levels(compressor, 0.5)))
    for parameter in small.parameters():
        parameter.data.zero_()
    assert _equal_states(before, _copy_state(dense)), "the network's tensors have changed"
    assert modes == [module.training for module in dense.modules()], "a module's mode has changed"
    assert torch.equal(random_state, torch.get_rng_state()), "the global random state has changed"
    assert all(parameter.grad is None for parameter in dense.parameters()), "the network has gradients now"
    assert small.training == dense.training, "the compressed network is in another mode"


def check_repeatable(case: MethodCase) -> None:
    """The same seed gives the same network, to the bit."""
    states = []
    for _ in range(2):
        compressor = case.bind_method()
        small = case.finish_compressed(compressor, compressor.allocation(uniform_levels(compressor, 0.5)), STEPS)
        states.append(_copy_state(small))
    assert _equal_states(*states), "two runs from the same seed differ"


def check_costs(case: MethodCase) -> None:
    """FLOPs and parameters of any allocation equal those counted on its network; outputs keep their shape."""
    compressor = case.bind_method()
    table = np.array(various_levels(compressor))
    costs = compressor.cost(table)
    for i, levels in enumerate(table):
        small = case.finish_compressed(compressor, compressor.allocation(levels))
        with torch.no_grad():
            assert small(case.example).shape == (len(case.example), case.classes), f"{levels}: outputs change shape"
        params = sum(parameter.numel() for parameter in small.parameters())
        assert costs.params[i] == params, f"{levels}: {costs.params[i]} parameters, counted {params}"
        flops = case.count_flops(small, case.example)
        assert costs.flops[i] == flops, f"{levels}: {costs.flops[i]} FLOPs, counted {flops}"
        single = compressor.cost_of(compressor.allocation(levels))
        assert single == tuple(figures[i] for figures in costs), f"{levels}: {single} alone, {costs} among others"


def check_packing(case: MethodCase) -> None:
    """Stored bytes are as predicted, and the network that is read back has equal outputs, to the bit."""
    compressor = case.bind_method()
    buffers = {name for name, _ in compressor.network.named_buffers()}
    inputs = case.make_batches(1)[0][0]
    for levels in various_levels(compressor):
        allocation = compressor.allocation(levels)
        small = case.finish_compressed(compressor, allocation, STEPS)
        stored = safetensors.torch.load(safetensors.torch.save(compressor.pack(small)))
        size = sum(tensor.nbytes for name, tensor in stored.items() if name not in buffers)
        predicted = compressor.cost_of(allocation).bytes
        # A tolerance of 2 %, and of 32 bytes per site: in small networks, rounding tables up to bytes costs more.
        close = abs(size - predicted) <= 0.02 * size + 32 * len(compressor.sites)
        assert close, f"{levels}: {predicted} bytes predicted, {size} stored"
        twin = compressor.unpack(allocation, stored).eval()
        with torch.no_grad():
            assert torch.equal(twin(inputs), small(inputs)), f"{levels}: what is read back computes something else"


def check_training(case: MethodCase) -> None:
    """Every parameter is trained once and gets a gradient; a deep copy shares nothing."""
    compressor = case.bind_method(case.build_network().train())
    allocation = compressor.allocation(uniform_levels(compressor, 0.5))
    small = compressor.compress(allocation)
    assert all(module.training for module in small.modules()), "a module is not in training mode"
    twin = copy.deepcopy(small)
    assert _equal_states(_copy_state(small), _copy_state(twin)), "a deep copy has other tensors"
    twin.load_state_dict(small.state_dict())
    before = _copy_state(twin)
    inputs, labels = case.make_batches(1)[0]
    nn.functional.cross_entropy(small(inputs), labels).backward()
    groups = compressor.tuning(allocation, small, steps=10, lr=0.01).parameter_groups(small)
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len(trained) == len(set(map(id, trained))), "the optimizer is given a parameter twice"
    assert len(trained) == len(list(small.parameters())), "the optimizer is not given every parameter"
    finite = all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    assert finite, "a parameter has no gradient, or none that is finite"
    assert _equal_states(before, _copy_state(twin)), "the copy shares tensors with the original"


CHECKS: tuple[Callable[[MethodCase], None], ...] = (
    check_record,
    check_ladders,
    check_dense,
    check_network_untouched,
    check_repeatable,
    check_costs,
    check_packing,
    check_training,
)
