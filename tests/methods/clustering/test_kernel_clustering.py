"""Kernel clustering: scales, shared work by brute force, scopes, 16-bit scales, pruned kernels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.base import Allocation, example_input
from methods.clustering.kernel_clustering import KernelClustering
from methods.clustering.scaled_kernels import in_16_bits, signed_scales
from methods.graph.narrow import Conv
from methods.registry import create
from methods.tables.codebook import CodebookConv, codebook_layers
from methods.testing.small_networks import NETWORKS, SHAPE, input_shape, random_batches, small_network
from models.errors import UserError


def bind_method(network: nn.Module, example: Tensor | None = None, **options: Any) -> KernelClustering:
    compressor = create("kernel-clustering", network, example_input(SHAPE) if example is None else example, options)
    assert isinstance(compressor, KernelClustering)
    return compressor


def smallest_allocation(compressor: KernelClustering) -> Allocation:
    return compressor.allocation([len(site.settings) - 1 for site in compressor.sites])


def middle_allocation(compressor: KernelClustering) -> Allocation:
    return compressor.allocation([len(site.settings) // 2 for site in compressor.sites])


def words_by_hand(layer: CodebookConv) -> list[list[int | None]]:
    """The codeword of every kernel; None where it is pruned."""
    pruned = len(layer.bank) * (1 if layer.orders is None else len(layer.orders))
    return [[None if word == pruned else word for word in filter_words] for filter_words in layer.index.tolist()]


def convolutions_by_hand(layer: CodebookConv) -> int:
    words, per_group = words_by_hand(layer), layer.index.shape[1]
    filters = layer.out_channels // layer.groups
    by_filter = sum(len(set(filter_words) - {None}) for filter_words in words)
    by_input = 0
    for channel in range(layer.in_channels):
        group, local = divmod(channel, per_group)
        by_input += len({words[n][local] for n in range(group * filters, (group + 1) * filters)} - {None})
    return min(by_filter, by_input)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"transforms": 8}, {"scope": "network", "transforms": 2},
                                     {"scope": {"features.0.*": 8, "*": 16}, "transforms": 4}])  # fmt: skip
def test_flops_and_bytes_from_the_layers(name: str, options: dict[str, Any]) -> None:
    dense = small_network(name)
    with torch.no_grad():
        next(m for m in dense.modules() if isinstance(m, Conv)).weight[1:3, 0] = 0
    example = example_input(input_shape(name))
    compressor = bind_method(dense, example, **options)
    for allocation in (middle_allocation(compressor), smallest_allocation(compressor)):
        small = compressor.compress(allocation)
        flops = bits = 0

        def count_layers(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            nonlocal flops, bits
            if getattr(layer, "transposed", False):
                output = inputs[0]  # the kernels meet the inputs
            if isinstance(layer, CodebookConv):
                transforms = 1 if layer.orders is None else len(layer.orders)
                area = math.prod(layer.kernel_size)
                flops += convolutions_by_hand(layer) * area * output[0, 0].numel()
                index = (len(layer.bank) - 1).bit_length() + (transforms - 1).bit_length() + 16
                bits += -(-layer.index.numel() * index // 8) * 8
            else:
                flops += layer.weight[0].numel() * output[0].numel()

        for module in small.modules():
            if isinstance(module, (Conv, nn.Linear, CodebookConv)):
                module.register_forward_hook(count_layers)
        with torch.no_grad():
            small(example[:1])
        scales = sum(layer.scale.numel() for layer in codebook_layers(small).values())
        floats = sum(parameter.numel() for parameter in small.parameters())
        assert compressor.cost_of(allocation) == (flops, floats, 4 * (floats - scales) + bits // 8)
        assert codebook_layers(small)


def test_scales() -> None:
    weight = torch.tensor([[[-3.0, -4.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, -1.0]]])[None]  # (1, 2, 2, 2)
    # The center of an even kernel: row 1, column 1.
    torch.testing.assert_close(signed_scales(weight), torch.tensor([[5.0, -(5.0**0.5)]]))
    odd = torch.zeros(1, 2, 3, 3)
    odd[0, 0, 1, 1], odd[0, 0, 0, 0], odd[0, 1, 0, 0] = -3, 4, 2
    assert signed_scales(odd).tolist() == [[-5.0, 2.0]]
    assert in_16_bits(torch.tensor([1e6, -1e6, 1e-9, 0.1])).tolist() == [65504.0, -65504.0, 0.0, 0.0999755859375]


def test_two_kernels_in_all_sizes_signs_and_orientations() -> None:
    """Kernels that are two patterns under scale, sign, flip and rotation: two centroids rebuild them all."""
    dense = small_network("plain")
    conv = dense.get_submodule("features.1.0")
    patterns = [torch.tensor([[0.1, 0.7, -0.3], [0.5, 1.0, 0.2], [0.0, -0.6, 0.4]]),
                torch.tensor([[0.9, 0.1, 0.8], [0.0, 0.3, -0.7], [-0.5, 0.6, 0.2]])]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for n in range(16):
        for c in range(12):
            kernel = torch.rot90(patterns[(n + c) % 2], int(torch.randint(4, (), generator=generator)))
            kernel = kernel.flip(0) if torch.rand((), generator=generator) < 0.5 else kernel
            conv.weight.data[n, c] = kernel * torch.randn((), generator=generator)
    compressor = bind_method(dense, transforms=8)
    small = compressor.compress(Allocation({"features.1.0": {"k": 2}}))
    layer = codebook_layers(small)["features.1.0"]
    torch.testing.assert_close(
        layer.expand_weight(), conv.weight, rtol=2e-3, atol=1e-4
    )  # but for the 16 bits of scales
    assert torch.unique(layer.index).numel() == 16


def test_pruned_kernels_stay_zero_and_are_not_counted() -> None:
    dense = small_network("plain").train()
    conv = dense.get_submodule("features.1.0")
    conv.weight.data[:, 3] = 0
    compressor = bind_method(dense, transforms=2)
    allocation = Allocation({"features.1.0": {"k": 4}})
    small = compressor.compress(allocation)
    layer = codebook_layers(small)["features.1.0"]
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for inputs, labels in random_batches(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(small(inputs), labels).backward()
        optimizer.step()
    assert not layer.expand_weight()[:, 3].any()
    assert layer.expand_weight()[:, 4].all()
    small = compressor.tuning(allocation, small, steps=3, lr=0.1).finish(small).eval()
    packed = compressor.pack(small)
    assert packed["features.1.0.scale"].dtype == torch.half
    assert torch.equal(
        compressor.unpack(allocation, packed).eval()(random_batches(1)[0][0]), small(random_batches(1)[0][0])
    )


def test_scopes() -> None:
    dense = small_network("residual")
    layers = [name for name, m in dense.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    per_layer, network_wide = bind_method(dense), bind_method(dense, scope="network")
    assert [site.name for site in per_layer.sites] == layers
    assert [(site.name, site.layers) for site in network_wide.sites] == [("*:3x3", tuple(layers))]
    ranges = bind_method(dense, scope={"features.0.0": 8, "features.1.*": 16})
    assert [(site.name, site.settings[1]["k"]) for site in ranges.sites] == [
        ("features.0.0:3x3", 8),
        ("features.1.*:3x3", 16),
    ]
    assert "listed ranges" in ranges.skipped["features.2.body.0.0"]
    assert "single weight" in ranges.skipped["features.2.shortcut.0"]
    small = network_wide.compress(smallest_allocation(network_wide))
    assert len({id(layer.bank) for layer in codebook_layers(small).values()}) == 1
    shapes = bind_method(small_network("plain"), scope="network")
    assert [site.name for site in shapes.sites] == ["*:3x3", "*:3x1"]


def test_same_strength_is_same_k() -> None:
    compressor = bind_method(small_network("plain"))
    strength_of_k: dict[Any, set[float]] = {}
    for site in compressor.sites:
        for setting, strength in zip(site.settings[1:], site.strengths[1:], strict=True):
            strength_of_k.setdefault(setting["k"], set()).add(strength)
    assert all(len(strengths) == 1 for strengths in strength_of_k.values())


@pytest.mark.parametrize(
    "options",
    [
        {"transforms": 3},
        {"scope": "layers"},
        {"scope": {}},
        {"scope": {"*": 1}},
        {"scope": {"no.*": 8}},
        {"largest": "64"},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        bind_method(small_network("plain"), **options)


def test_depthwise_and_dead_layers_are_left() -> None:
    assert "depthwise" in bind_method(small_network("depthwise")).skipped["features.1.0"]
    dead = small_network("plain")
    nn.init.zeros_(dead.get_submodule("features.1.0").weight)
    assert "too few kernels" in bind_method(dead).skipped["features.1.0"]


def test_centroids_come_most_used_first_with_their_counts() -> None:
    compressor = bind_method(small_network("residual"), scope="network", transforms=4)
    small = compressor.compress(smallest_allocation(compressor))
    layers = codebook_layers(small)
    ((name, centers, counts),) = compressor.centroids(small)
    assert name == "*:3x3"
    assert counts.sum() == sum(layer.index.numel() for layer in layers.values())
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    bank = next(iter(layers.values())).bank
    numbers = torch.cat([layer.index.flatten() // 4 for layer in layers.values()]).tolist()
    for center, count in zip(centers, counts.tolist(), strict=True):
        filter_words = next(i for i, values in enumerate(bank) if torch.equal(values, center.flatten()))
        assert numbers.count(filter_words) == count


def test_codebooks_that_no_layer_uses_are_not_shown_and_pruned_kernels_not_counted() -> None:
    network = small_network("residual")
    compressor = bind_method(network)
    first, *others = compressor.sites
    with torch.no_grad():
        network.get_submodule(first.layers[0]).weight[0, :2] = 0
    compressor = bind_method(network)
    small = compressor.compress(Allocation({first.name: compressor.sites[0].settings[1]}))
    ((name, _, counts),) = compressor.centroids(small)
    assert others
    assert name == first.name
    assert counts.sum() == first.channels - 2
    assert compressor.centroids(network) == []


def test_codebooks_take_the_step_that_comes_nearest_to_plain_steps_of_their_kernels() -> None:
    """One centroid for all kernels: its step against the least-squares fit to the steps of the expanded weights."""
    compressor = bind_method(small_network("residual"), scope="network", largest=2)
    small = compressor.compress(smallest_allocation(compressor))
    layers = list(codebook_layers(small).values())
    bank, lr = layers[0].bank, 0.1
    rest, own = compressor.tuning(None, small, steps=10, lr=lr).parameter_groups(small)
    assert [id(p) for p in own["params"]] == [id(bank)]
    together = sorted(id(p) for p in rest["params"] + own["params"])
    assert together == sorted({id(p) for p in small.parameters()})
    scales = torch.cat([layer.scale.detach().flatten() for layer in layers if layer.scale is not None])
    gradients = torch.randn(len(scales), 9, generator=torch.Generator().manual_seed(0))  # of every kernel
    fit = torch.linalg.lstsq(scales[:, None], -lr * gradients).solution[0]  # if all used one centroid
    steps = -own["lr"] * (scales[:, None] * gradients).sum(0)
    assert scales.square().sum() > len(bank)
    torch.testing.assert_close(steps, len(bank) * fit)  # of len(bank) centroids each has its share of the kernels
