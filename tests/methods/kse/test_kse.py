"""KSE against a second implementation written as loops from the formulas, and on the published ResNet-56."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, example_input
from methods.graph.narrow import Conv
from methods.kse.kse import KSE, PAIRS
from methods.kse.kse_indicator import channel_indicator, kept_kernels, neighbour_distances
from methods.registry import create
from methods.tables.codebook import CodebookConv, codebook_layers
from methods.testing.small_networks import NETWORKS, SHAPE, input_shape, small_network
from models.errors import UserError

WEIGHTS = os.environ.get("RATIO_SEARCH_WEIGHTS")


def loop_indicator(weight: Tensor, groups: int = 1, alpha: float = 1.0, neighbours: int = 5) -> list[float]:
    """v_c by the formulas, one number at a time."""
    filters, width = weight.shape[0] // groups, weight.shape[1]
    s, e = [], []
    for c in range(groups * width):
        group, local = divmod(c, width)
        kernels = [weight[group * filters + n, local].double().flatten().tolist() for n in range(filters)]
        s.append(sum(abs(value) for kernel in kernels for value in kernel))
        dm = []
        for n in range(filters):
            others = sorted(math.dist(kernels[n], kernels[m]) for m in range(filters) if m != n)
            dm.append(sum(others[:neighbours]))
        shares = [value / sum(dm) for value in dm] if sum(dm) > 0 else []
        e.append(-sum(p * math.log2(p) for p in shares if p > 0))

    def normalise_range(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) for value in values] if high > low else [1.0 for _ in values]

    return normalise_range(
        [math.sqrt(sc / (1 + alpha * ec)) for sc, ec in zip(normalise_range(s), normalise_range(e), strict=True)]
    )


def gather_kernels(weight: Tensor, groups: int) -> Tensor:
    """The kernels that read each input channel, (C, N / groups, K)."""
    return torch.cat([filters.transpose(0, 1).flatten(2) for filters in weight.chunk(groups)])


def loop_counts(v: list[float], G: int, T: int, N: int) -> list[int]:
    counts = []
    for value in v:
        if math.floor(value * G) == 0:
            counts.append(0)
        elif math.ceil(value * G) == G:
            counts.append(N)
        else:
            counts.append(math.ceil(N / 2 ** (G - math.ceil(value * G) + T)))
    return counts


def bind_method(network: nn.Module, example: Tensor | None = None, **options: float) -> KSE:
    compressor = create("kse", network, example_input(SHAPE) if example is None else example, options)
    assert isinstance(compressor, KSE)
    return compressor


SHAPES = [((8, 6, 3, 3), 1), ((7, 5, 1, 1), 1), ((12, 3, 3, 1), 4), ((4, 6, 5, 5), 1), ((3, 4, 1, 1), 1),
          ((2, 8, 3, 3), 1), ((40, 3, 1, 1), 1)]  # fmt: skip


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_indicator_by_loops(shape: tuple[int, ...], groups: int) -> None:
    weight = (
        torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.linspace(1, 3, shape[1])[:, None, None]
    )
    for alpha, neighbours in ((1.0, 5), (0.5, 2)):
        expected = loop_indicator(weight, groups, alpha, neighbours)
        kernels = gather_kernels(weight, groups)
        np.testing.assert_allclose(channel_indicator(kernels, alpha, neighbours), expected, atol=1e-9)
        for G, T in PAIRS:
            counts = kept_kernels(np.array(expected), G, T, shape[0] // groups)
            assert counts.tolist() == loop_counts(expected, G, T, shape[0] // groups)


@pytest.mark.parametrize("size", [1, 9])
def test_indicator_of_constant_channels(size: int) -> None:
    """No division by zero; nothing tells the channels apart, so nothing is removed."""
    assert channel_indicator(torch.ones(4, 6, size)).tolist() == [1.0] * 4
    assert channel_indicator(torch.zeros(4, 6, size)).tolist() == [1.0] * 4
    half = torch.zeros(4, 6, size)
    half[:2] = 1  # constant but for their size: all entropies are 0
    assert channel_indicator(half).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_density_on_a_line_with_ties() -> None:
    values = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 4.0, -2.0]])[..., None].double()
    pairwise = (values - values.transpose(1, 2)).abs()[0]
    expected = pairwise.sort(1).values[:, 1:4].sum(1)
    torch.testing.assert_close(neighbour_distances(values, 3)[0], expected)


def gather_convolution(layer: CodebookConv, conv: Conv) -> dict[int, list[Tensor]]:
    """For every input channel that is read, its kernels as the compressed layer uses them."""
    weight, per_group = layer.expand_weight().detach(), conv.in_channels // conv.groups
    filters = conv.out_channels // conv.groups
    return {
        channel: [
            weight[channel, n] if conv.transposed else weight[channel // per_group * filters + n, channel % per_group]
            for n in range(filters)
        ]
        for channel in layer.read_channels().nonzero()[:, 0].tolist()
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("pair", [(2, 0), (4, 0), (4, 1), (6, 3)])
def test_counts_flops_and_bytes_from_the_layers(name: str, pair: tuple[int, int]) -> None:
    """Distinct kernels, work and bytes counted in the compressed modules, against what the cost model predicted."""
    dense, (G, T), example = small_network(name), pair, example_input(input_shape(name))
    compressor = bind_method(dense, example)
    wanted = [[i for i, setting in enumerate(site.settings) if dict(setting) == {"G": G, "T": T}] or [0]
              for site in compressor.sites]  # fmt: skip
    allocation = compressor.allocation([choice[0] for choice in wanted])
    small = compressor.compress(allocation)
    flops, stored = 0, 4 * sum(parameter.numel() for parameter in small.parameters())
    handles = []

    def count_layers(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops, stored
        if getattr(layer, "transposed", False):
            output = inputs[0]  # the kernels meet the inputs
        if not isinstance(layer, CodebookConv):
            flops += layer.weight[0].numel() * output[0].numel()  # each output number is one sum over a filter
            return
        area, bits = math.prod(layer.kernel_size), 0
        for kernels in gather_convolution(layer, dense.get_submodule(names[layer])).values():
            if not any(kernel.any() for kernel in kernels):
                continue  # fills up a group
            different = len({tuple(kernel.flatten().tolist()) for kernel in kernels})
            flops += different * area * output[0, 0].numel()
            if different < len(kernels):
                bits += len(kernels) * math.ceil(math.log2(different))
        stored += math.ceil(bits / 8)

    names = {module: name for name, module in small.named_modules()}
    for module in small.modules():
        if isinstance(module, (Conv, nn.Linear, CodebookConv)):
            handles.append(module.register_forward_hook(count_layers))
    with torch.no_grad():
        small(example[:1])
    cost = compressor.cost_of(allocation)
    assert codebook_layers(small) or all(level == 0 for level in compressor.levels(allocation))
    assert cost.flops == flops
    assert cost.bytes == stored


def test_dropped_inputs_are_not_read() -> None:
    """Channels whose indicator is too low may hold anything."""
    dense = small_network("plain")
    compressor = bind_method(dense)
    site = compressor.sites[0]
    small = compressor.compress(Allocation({site.name: site.settings[-1]}))
    layer = codebook_layers(small)[site.name]
    setting = site.settings[-1]
    counts = compressor.kernel_counts(site.name, int(setting["G"]), int(setting["T"]))
    assert layer.read_channels().tolist() == (counts > 0).tolist()
    assert 0 < layer.read_channels().sum() < layer.in_channels
    x = torch.randn(2, layer.in_channels, 5, 5)
    expected = layer(x)
    x[:, counts == 0] = 1e6 * torch.randn(2, int((counts == 0).sum()), 5, 5)
    assert torch.equal(layer(x), expected)


def test_untouched_channels_keep_their_kernels() -> None:
    dense = small_network("residual")
    compressor = bind_method(dense)
    for site in compressor.sites:
        counts = compressor.kernel_counts(site.name, 3, 0)
        conv = dense.get_submodule(site.name)
        setting = next((s for s in site.settings[1:] if dict(s) == {"G": 3, "T": 0}), None)
        if setting is None:
            continue
        layer = codebook_layers(compressor.compress(Allocation({site.name: setting})))[site.name]
        for channel, kernels in gather_convolution(layer, conv).items():
            if counts[channel] == conv.out_channels:
                assert torch.equal(torch.stack(kernels), conv.weight[:, channel])


def test_reasons() -> None:
    compressor: Compressor = bind_method(small_network("depthwise"))
    assert "first convolution" in compressor.skipped["features.0.0"]
    assert "depthwise" in compressor.skipped["features.1.0"]
    assert "linear" in compressor.skipped["linear"]
    alike = small_network("plain")
    nn.init.ones_(alike.get_submodule("features.1.0").weight)
    assert "alike" in bind_method(alike).skipped["features.1.0"]


def test_bad_input() -> None:
    broken = small_network("plain")
    broken.get_submodule("features.1.0").weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"features\.1\.0.*not finite"):
        bind_method(broken)
    with pytest.raises(UserError, match="alpha"):
        bind_method(small_network("plain"), alpha=-1.0)


@pytest.mark.skipif(WEIGHTS is None, reason="RATIO_SEARCH_WEIGHTS names no folder with the published weights")
def test_published_resnet56() -> None:
    """The kernels that the reference keeps at G = 4, T = 0: 66,496 of 94,208."""
    from models.networks.catalog import build_network

    network = build_network("resnet56", classes=10)
    file = Path(WEIGHTS or "") / "resnet56-4bfd9763.th"
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in stored.items()})
    compressor = create("kse", network.eval(), example_input((3, 32, 32)))
    assert isinstance(compressor, KSE)
    kept = sum(int(compressor.kernel_counts(site.name, 4, 0).sum()) for site in compressor.sites)
    assert (kept, sum(site.channels for site in compressor.sites)) == (66_496, 94_208)


@pytest.mark.parametrize("dtype", [torch.half, torch.double])
def test_centroids_have_the_type_of_the_weights(dtype: torch.dtype) -> None:
    network = small_network("plain").to(dtype)
    inputs = example_input(SHAPE).to(dtype)
    compressor = create("kse", network, inputs)
    for level in (1, -1):
        small = compressor.compress(Allocation({site.name: site.settings[level] for site in compressor.sites}))
        assert small(inputs).dtype == dtype
