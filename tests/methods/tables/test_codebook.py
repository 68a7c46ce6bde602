"""The codebook convolution against plain convolutions, autograd and torch.export; tables of bits."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.base import Cost
from methods.kse.kse import build_layer
from methods.tables.bitpack import BitReader, bits_for, pack_bits, to_bytes
from methods.tables.codebook import CodebookConv, codebook_layers, expand_layer, replace_module, why_unsupported
from methods.tables.table_cost import TableCost, falling_settings
from methods.tables.vector_quantizer import kernel_symmetries

GEOMETRIES = {
    "plain": {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "padding": 1, "bias": False},
    "strided": {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "stride": 2, "dilation": 2},
    "oblong": {"in_channels": 4, "out_channels": 6, "kernel_size": (1, 5), "padding": (0, 2)},
    "grouped": {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "padding": "same", "groups": 2},
    "reflect": {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "circular": {"in_channels": 6, "out_channels": 8, "kernel_size": 5, "padding": 2, "padding_mode": "circular"},
    "signal": {"in_channels": 6, "out_channels": 8, "kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
    "clip": {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 1, 3), "stride": (1, 2, 2), "groups": 2},
    "longer": {"in_channels": 6, "out_channels": 8, "kernel_size": 4, "stride": 2, "groups": 2},
    "larger": {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "deeper": {"in_channels": 4, "out_channels": 6, "kernel_size": (1, 2, 3), "dilation": (1, 1, 2), "bias": False},
}
CLASSES = {"signal": nn.Conv1d, "clip": nn.Conv3d, "longer": nn.ConvTranspose1d, "larger": nn.ConvTranspose2d,
           "deeper": nn.ConvTranspose3d}  # fmt: skip


def seeded_convolution(name: str) -> nn.modules.conv._ConvNd:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLASSES.get(name, nn.Conv2d)(**GEOMETRIES[name])


def kernel_at(layer: CodebookConv, weight: Tensor, n: int, c: int) -> Tensor:
    """The kernel from the input that filter n reads as its c-th one; of a transposed weight, inputs come first."""
    if not layer.transposed:
        return weight[n, c].flatten()
    filters, inputs = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    return weight[n // filters * inputs + c, n % filters].flatten()


def shared_layer(name: str, *, drop: bool = True) -> CodebookConv:
    """Of every group's input channels: one with 3 distinct kernels, one whole, one (of the first group two) dropped."""
    conv = seeded_convolution(name)
    kernels, area = conv.out_channels // conv.groups, math.prod(conv.kernel_size)
    counts = np.full(conv.in_channels, kernels)
    counts[:: conv.in_channels // conv.groups] = 3
    if drop:
        counts[conv.in_channels // conv.groups - 1 :: conv.in_channels // conv.groups] = 0
        counts[1] = 0
    generator = torch.Generator().manual_seed(1)
    labels = torch.stack([torch.randint(max(int(q), 1), (kernels,), generator=generator) for q in counts])
    return build_layer(conv, counts, torch.randn(int(counts.sum()), area, generator=generator), labels)


def scaled_layer(name: str) -> CodebookConv:
    """Scaled and flipped centroids, some kernels pruned."""
    conv, generator = seeded_convolution(name), torch.Generator().manual_seed(2)
    orders = kernel_symmetries(conv.kernel_size, 4)
    bank = nn.Parameter(torch.randn(5, orders.shape[1], generator=generator))
    shape = conv.out_channels, conv.in_channels // conv.groups
    index = torch.randint(5 * len(orders) + 1, shape, generator=generator)
    return CodebookConv(conv, bank, index, scale=torch.randn(shape, generator=generator), orders=orders)


LAYERS = (
    [shared_layer(name) for name in GEOMETRIES]
    + [shared_layer("plain", drop=False)]
    + [scaled_layer(name) for name in GEOMETRIES]
)


def random_image(layer: CodebookConv) -> Tensor:
    size = (9, 8, 7)[: len(layer.kernel_size)]
    return torch.randn(2, layer.in_channels, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_is_the_expanded_convolution(layer: CodebookConv) -> None:
    x = random_image(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expand_layer(layer)(x), rtol=1e-5, atol=1e-5)
        if x.dim() == 4:
            last = x.contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(layer(last), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_gradients_are_sums_over_the_kernels(layer: CodebookConv) -> None:
    """Against autograd on the dense copy: its weight's gradient, gathered kernel by kernel."""
    dense, x = expand_layer(layer), random_image(layer)
    layer.zero_grad()
    layer(x).square().sum().backward()
    dense(x).square().sum().backward()
    per_group = layer.in_channels // layer.groups
    bank, scale = torch.zeros_like(layer.bank), torch.zeros(layer.index.shape)
    transforms = 1 if layer.orders is None else len(layer.orders)
    for n in range(layer.out_channels):
        for c in range(per_group):
            gradient = kernel_at(layer, dense.weight.grad, n, c)
            row, s = divmod(int(layer.index[n, c]), transforms)
            if row == len(bank):
                continue  # the row of zeros
            order = torch.arange(len(gradient)) if layer.orders is None else layer.orders[s]
            a = 1.0 if layer.scale is None else layer.scale[n, c].item()
            bank[row, order] += a * gradient
            scale[n, c] = gradient @ layer.bank.detach()[row, order]
    torch.testing.assert_close(layer.bank.grad, bank, rtol=1e-4, atol=1e-4)
    if layer.scale is not None:
        torch.testing.assert_close(layer.scale.grad, scale, rtol=1e-4, atol=1e-4)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [shared_layer("grouped"), scaled_layer("plain")], ids=repr)
def test_copies_exports_and_reads_back(layer: CodebookConv) -> None:
    x = random_image(layer)
    network = nn.Sequential(layer, nn.ReLU()).eval()
    with torch.no_grad():
        expected = network(x)
        exported = torch.export.export(network, (x,)).module()
        assert torch.equal(exported(x), expected)
        twin = copy.deepcopy(network)
        twin[0].bank.zero_()
        assert not torch.equal(twin(x), expected)
        assert torch.equal(network(x), expected)
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin(x), expected)


def test_autocast_and_channels_last() -> None:
    layer = shared_layer("plain")
    x = random_image(layer).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.float().sum().backward()
    assert layer.bank.grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("size", [(18, 16), (2, 8, 17, 15)])
def test_a_transposed_one_can_be_asked_for_a_size(size: tuple[int, ...]) -> None:
    layer = shared_layer("larger")
    x = random_image(layer)
    with torch.no_grad():
        outputs = layer(x, output_size=size)
        torch.testing.assert_close(outputs, expand_layer(layer)(x, output_size=size), rtol=1e-5, atol=1e-5)
    assert outputs.shape[-2:] == size[-2:]


def test_shared_bank_stays_shared() -> None:
    conv = seeded_convolution("plain")
    bank = nn.Parameter(torch.randn(4, 9))
    layers = [CodebookConv(conv, bank, torch.randint(4, (8, 6)), scale=torch.ones(8, 6)) for _ in range(2)]
    twin = copy.deepcopy(nn.Sequential(layers[0], nn.Conv2d(8, 6, 1), layers[1]))
    assert twin[0].bank is twin[2].bank is not bank
    assert sum(parameter is twin[0].bank for parameter in twin.parameters()) == 1
    x = random_image(layers[0])
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(twin, (x,)).module()(x), twin(x))


def test_what_cannot_be_replaced() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)

    for plain in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        assert why_unsupported(plain(2, 3, 3)) is None
    parametrised = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    for module in (
        nn.Linear(2, 3),
        Standardised(2, 3, 3),
        parametrised,
    ):
        assert why_unsupported(module)


def test_replaces_every_occurrence() -> None:
    conv = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(conv, nn.Sequential(conv, nn.ReLU()))
    new = CodebookConv(conv, nn.Parameter(torch.randn(2, 1)), torch.zeros(3, 3))
    replace_module(network, "0", new)
    assert network[0] is network[1][0] is new
    assert codebook_layers(network) == {"0": new}


def test_bits() -> None:
    assert [bits_for(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [0, 1, 2, 2, 3, 6, 7]
    assert to_bytes(pack_bits(torch.tensor([5, 1]), 3), pack_bits(torch.tensor([3]), 2)).tolist() == [0b10100111]
    generator = torch.Generator().manual_seed(0)
    tables = [(torch.randint(1 << width, (count,), generator=generator), width)
              for width, count in [(0, 7), (1, 9), (3, 5), (11, 100), (31, 2)]]  # fmt: skip
    packed = to_bytes(*(pack_bits(values, width) for values, width in tables))
    assert len(packed) == math.ceil(sum(width * len(values) for values, width in tables) / 8)
    reader = BitReader(packed)
    for values, width in tables:
        assert torch.equal(reader.read_values(len(values), width), values)
    with pytest.raises(ValueError, match="ends after"):
        reader.read_values(8, 8)


def test_table_cost_and_ladder() -> None:
    tables = [[Cost(10, 5, 20), Cost(4, 2, 8)], [Cost(30, 6, 24), Cost(20, 5, 20), Cost(1, 1, 4)]]
    cost = TableCost(Cost(100, 7, 28), tables)
    assert cost.dense == (140, 18, 72)
    levels = np.array([[0, 0], [1, 2], [1, 1]])
    for row, (i, j) in enumerate(levels):
        expected = tuple(sum(figures) for figures in zip((100, 7, 28), tables[0][i], tables[1][j], strict=True))
        assert tuple(int(figure[row]) for figure in cost(levels)) == expected
    # Dearer than dense, a duplicate, and fewer FLOPs at more bytes than an earlier setting: all go.
    costs = [Cost(10, 10, 40), Cost(11, 9, 30), Cost(5, 5, 20), Cost(5, 5, 20), Cost(4, 5, 25), Cost(2, 2, 8)]
    assert falling_settings(costs, [0, 0.1, 0.6, 0.5, 0.7, 0.4]) == ([0, 3, 5], [0.0, 0.5, 0.5])
