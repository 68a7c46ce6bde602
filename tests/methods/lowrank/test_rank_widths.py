"""Widths and activations of factored layers as the cost model tells them, against those of the compressed network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.base import example_input
from methods.graph.narrow import LAYERS, channels_of, is_depthwise
from methods.lowrank.rank_widths import RankedCost
from methods.registry import create
from methods.testing.small_networks import NETWORKS, input_shape, small_network
from models.execution.forward_hooks import forward_hooks


def _layers_run(network: nn.Module, example: Tensor) -> tuple[dict[str, tuple[int, int]], int]:
    """Widths of every layer that a forward pass calls, and how many activations they write for one input."""
    widths: dict[str, tuple[int, int]] = {}
    written = 0

    def note_layer(name: str, layer: nn.Module, output: Tensor) -> None:
        nonlocal written
        widths[name] = (1 if is_depthwise(layer) else channels_of(layer, "in"), channels_of(layer, "out"))
        written += output.numel()

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, LAYERS)]
    hooks = [(layer, lambda module, _, output, name=name: note_layer(name, module, output)) for name, layer in layers]
    with forward_hooks(after=hooks), torch.no_grad():
        network.eval()(example[:1])
    return widths, written


@pytest.mark.parametrize("method", ["svd", "tucker"])
@pytest.mark.parametrize("name", NETWORKS)
def test_widths_are_those_of_the_compressed_network(name: str, method: str) -> None:
    network, example = small_network(name), example_input(input_shape(name))
    compressor = create(method, network, example)
    cost = compressor.cost
    assert isinstance(cost, RankedCost)
    sizes = [len(site.settings) for site in compressor.sites]
    table = np.stack(
        [np.zeros(len(sizes), dtype=np.intp), *(np.random.default_rng(0).integers(sizes, size=(4, len(sizes))))]
    )
    inputs, outputs = cost.layer_widths(table)
    shares, written = cost.position_shares(table), cost.written_elements(table)
    sites = {site.name for site in compressor.sites}
    for row, levels in enumerate(table):
        counted, activations = _layers_run(compressor.compress(compressor.allocation(levels)), example)
        expected = {f"{layer}.core" if layer in sites else layer: widths for layer, widths in counted.items()}
        present = {layer: (int(inputs[row, i]), int(outputs[row, i]))
                   for i, layer in enumerate(cost.layers) if shares[row, i] == 1}  # fmt: skip
        assert present == expected
        assert set(np.unique(shares[row])) <= {0, 1}
        assert written[row] == activations


def test_its_network_has_all_layers_and_computes_what_the_dense_one_does() -> None:
    network, example = small_network("residual"), example_input((3, 12, 12))
    cost = create("tucker", network, example).cost
    assert isinstance(cost, RankedCost)
    wide = cost.network
    assert set(cost.layers) == {name for name, module in wide.named_modules() if isinstance(module, LAYERS)}
    torch.testing.assert_close(wide(example), network(example), rtol=1e-4, atol=1e-5)
