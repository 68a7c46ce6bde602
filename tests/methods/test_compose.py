"""Compositions: what goes together, that their costs hold at every pair of widths, and what the second one works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from coupled_nets import BUILDERS, pieces
from independent import randomise_channels
from torch import Tensor, nn

from methods.base import Allocation, Compressor, Site, example_input
from methods.graph.narrow import Conv
from methods.kse.kse import PAIRS
from methods.registry import create, method_info, methods
from methods.tables.codebook import codebook_layers
from methods.testing.conformance import count_flops, train_compressed
from methods.testing.small_networks import NETWORKS, SHAPE, input_shape, random_batches, small_network
from models.errors import UserError


def bind_method(method: str, network: nn.Module, example: Tensor | None = None, **options: Any) -> Compressor:
    chosen = {name.replace("__", "."): value for name, value in options.items()}
    return create(method, network, example_input(SHAPE) if example is None else example, chosen)


def at_random(compressor: Compressor, seed: int) -> Allocation:
    sizes = [len(site.settings) for site in compressor.sites]
    return compressor.allocation(np.random.default_rng(seed).integers(sizes))


def test_every_pair_that_the_records_allow() -> None:
    places = {name: info.place for name, info in methods().items()}
    assert places["l1"] == "first"
    assert places["kse"] == places["kernel-clustering"] == "second"
    assert places["resrep"] is None  # it narrows while it trains
    expected = {f"{a}+{b}" for a in places for b in places if (places[a], places[b]) == ("first", "second")}
    assert {method_info(name).name for name in expected} == expected
    assert not expected & set(methods())


@pytest.mark.parametrize("method", ["kse+l1", "l1+l1", "kse+kse", "resrep+kse", "l1+resrep", "l1+kse+kse"])
def test_what_does_not_go_together_is_told_what_does(method: str) -> None:
    with pytest.raises(UserError, match=r"l1.* first and one of kernel-clustering, kse, svd, tucker second"):
        method_info(method)


def test_unknown_parts() -> None:
    with pytest.raises(UserError, match="unknown method 'ksee'; did you mean kse"):
        method_info("l1+ksee")
    with pytest.raises(UserError, match="unknown method ''"):
        method_info("l1+")


def test_record_and_options() -> None:
    info = method_info("random+kernel-clustering")
    assert info.options["random.seed"] == 0
    assert info.options["kernel-clustering.largest"] == 512
    assert not info.plain_layers
    assert method_info("taylor+kse").needs_calibration
    small = bind_method("random+kernel-clustering", small_network("plain"), **{"kernel-clustering__largest": 16})
    assert {setting["k"] for site in small.sites for setting in site.settings if "k" in setting} <= {2, 4, 8, 16}
    with pytest.raises(UserError, match="largest"):
        bind_method("l1+kernel-clustering", small_network("plain"), largest=16)


def test_sites_of_both_stand_in_one_allocation() -> None:
    network = small_network("residual")
    compressor = bind_method("l1+kse", network)
    single = {name: bind_method(name, network) for name in ("l1", "kse")}
    wanted = [f"{name}:{site.name}" for name, component in single.items() for site in component.sites]
    assert [site.name for site in compressor.sites] == wanted
    assert {f"{name}:{layer}" for name, component in single.items() for layer in component.skipped} == set(
        compressor.skipped
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("l1+kse", {}),
        ("l1+kernel-clustering", {}),
        ("l1+kernel-clustering", {"kernel-clustering__scope": "network", "kernel-clustering__transforms": 8}),
    ],
)
def test_costs_at_any_pair_of_widths(method: str, options: dict[str, Any], name: str) -> None:
    network, example = small_network(name), example_input(input_shape(name))
    with torch.no_grad():
        [m for m in network.modules() if isinstance(m, Conv)][1].weight[1:3, 0] = 0  # kernels that are pruned
    compressor = bind_method(method, network, example, **options)
    for seed in range(12):
        allocation = at_random(compressor, seed)
        small = compressor.compress(allocation).eval()
        flops, params, _ = compressor.cost_of(allocation)
        assert flops == count_flops(small, example)
        assert params == sum(parameter.numel() for parameter in small.parameters())


class Folded(nn.Module):
    """Each channel of `stem` goes through the same convolutions by itself, as an image of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 6, 3, padding=1)
        self.deep, self.back = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 1, 1)
        self.head = nn.Linear(8, pieces.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        folded = torch.relu(self.deep(torch.relu(self.wide(x.flatten(0, 1)[:, None]))))
        return torch.as_tensor(self.head(self.back(folded).view(x.shape).mean((2, 3))))


@pytest.mark.parametrize("second", ["kse", "kernel-clustering"])
def test_costs_where_the_first_one_takes_positions_of_the_second_one(second: str) -> None:
    compressor = bind_method(f"l1+{second}", Folded())
    assert {"l1:stem", "l1:wide", f"{second}:deep"} <= {site.name for site in compressor.sites}
    for seed in range(12):
        allocation = at_random(compressor, seed)
        small = compressor.compress(allocation).eval()
        assert compressor.cost_of(allocation).flops == count_flops(small, example_input(SHAPE))


def test_settings_of_one_method_alone_cost_what_they_cost_without_the_other() -> None:
    network = small_network("concat")
    for second in ("kse", "kernel-clustering"):
        both, single, first = (
            bind_method(f"l1+{second}", network),
            bind_method(second, network),
            bind_method("l1", network),
        )
        for seed in range(4):
            levels, widths = at_random(single, seed), at_random(first, seed)
            tabled = Allocation({f"{second}:{site}": setting for site, setting in levels.items()})
            assert both.cost_of(tabled) == single.cost_of(levels)
            narrow = Allocation({f"l1:{site}": setting for site, setting in widths.items()})
            assert both.cost_of(narrow) == first.cost_of(widths)
            assert not codebook_layers(both.compress(narrow))


def test_many_allocations_at_once_cost_what_each_costs() -> None:
    compressor = bind_method("l1+kernel-clustering", small_network("concat"))
    sizes = [len(site.settings) for site in compressor.sites]
    table = np.random.default_rng(0).integers(sizes, size=(5000, len(sizes)))
    costs = compressor.cost(table)
    for row in (0, 1, 4095, 4096, 4999):
        assert compressor.cost_of(compressor.allocation(table[row])) == tuple(column[row] for column in costs)


def test_the_second_one_works_on_what_the_first_leaves() -> None:
    """KSE's kernels are those of the narrowed layer, as many per channel as its grade gives to the filters left."""
    network = small_network("plain")
    both, first, second = bind_method("l1+kse", network), bind_method("l1", network), bind_method("kse", network)
    narrow = first.compress(first.allocation([site.channels // 2 for site in first.sites]))
    for site in second.sites:
        conv, dense = narrow.get_submodule(site.name), network.get_submodule(site.name)
        # Which inputs are left, by their weights into the filters that are left.
        channels = [next(i for i in range(dense.in_channels) if _holds_all(dense.weight[:, i], conv.weight[:, c]))
                for c in range(conv.in_channels)]  # fmt: skip
        for setting in site.settings[1:4]:
            halves = {f"l1:{each.name}": each.settings[each.channels // 2] for each in first.sites}
            small = both.compress(Allocation({**halves, f"kse:{site.name}": setting}))
            layer = codebook_layers(small)[site.name]
            G, T = int(setting["G"]), int(setting["T"])
            assert (G, T) in PAIRS
            v = second.layer_indicator(site.name)[channels]
            counts = [_count_kernels(value, G, T, conv.out_channels) for value in v]
            assert len(layer.bank) == (sum(counts) or conv.out_channels)


def _holds_all(column: torch.Tensor, kernels: torch.Tensor) -> bool:
    return all(any(torch.equal(kernel, candidate) for candidate in column) for kernel in kernels)


def _count_kernels(v: float, G: int, T: int, N: int) -> int:
    if int(v * G) == 0:
        return 0
    grade = -int(-v * G // 1)
    return N if grade == G else -(-N // 2 ** (G - grade + T))


def test_one_channel_stays_where_kse_would_drop_all() -> None:
    """The one channel that KSE leaves alone has the smallest filter: pruned, all that are left would be dropped."""
    network = small_network("plain")
    conv, producer = network.get_submodule("features.1.0"), network.get_submodule("features.0.0")
    with torch.no_grad():
        conv.weight[:, 1:] *= 1e-3
        producer.weight[0] *= 1e-3
    compressor = bind_method("l1+kse", network)
    names = {site.name: site for site in compressor.sites}
    allocation = Allocation({
        "l1:features.0.0": names["l1:features.0.0"].settings[1],
        "kse:features.1.0": names["kse:features.1.0"].settings[-1],
    })  # fmt: skip
    small = compressor.compress(allocation).eval()
    layer = codebook_layers(small)["features.1.0"]
    assert layer.read_channels().sum() == 1
    assert compressor.cost_of(allocation).flops == count_flops(small, example_input(SHAPE))


def test_centroids_are_means_of_the_kernels_left() -> None:
    network = small_network("plain")
    compressor = bind_method("l1+kernel-clustering", network)
    names = {site.name: site for site in compressor.sites}
    producer, layer = names["l1:features.0.0"], names["kernel-clustering:features.1.0"]
    allocation = Allocation({producer.name: producer.settings[6], layer.name: layer.settings[-1]})
    small = compressor.compress(allocation)
    tabled, narrow = codebook_layers(small)["features.1.0"], bind_method("l1", network).compress(
        Allocation({"features.0.0": producer.settings[6]})
    ).get_submodule("features.1.0")  # fmt: skip
    kernels = narrow.weight.detach().flatten(2)
    unit = kernels / kernels.norm(dim=2, keepdim=True) * torch.where(kernels[..., 4:5] < 0, -1, 1)
    for row in range(len(tabled.bank)):
        members = unit[tabled.index == row]
        torch.testing.assert_close(tabled.bank[row].detach(), members.mean(0))


def test_kernels_of_zeros_stay_so_when_the_first_one_repairs_what_is_left() -> None:
    """Least squares makes them something; their place in the table is gone, and the stored form has to say the same."""
    network = small_network("plain")
    layer = network.get_submodule("features.1.0")
    with torch.no_grad():
        layer.weight[1:5, 3:6] = 0
    compressor = bind_method("obs+kernel-clustering", network)
    compressor.calibrate(random_batches(2))
    names = {site.name: site for site in compressor.sites}
    producer, tabled = names["obs:features.0.0"], names["kernel-clustering:features.1.0"]
    narrow = Allocation({producer.name: producer.settings[6]})
    allocation = Allocation({**narrow, tabled.name: tabled.settings[-1]})
    small, repaired = compressor.compress(allocation).eval(), compressor.compress(narrow)
    remaining = small.get_submodule("features.1.0").expand_weight()
    assert repaired.get_submodule("features.1.0").weight.flatten(2).norm(dim=2).min() > 0
    assert 0 < int((remaining.flatten(2).norm(dim=2) == 0).sum()) <= 12
    assert compressor.cost_of(allocation).flops == count_flops(small, example_input(SHAPE))
    x = random_batches(1)[0][0]
    with torch.no_grad():
        assert torch.equal(compressor.unpack(allocation, compressor.pack(small)).eval()(x), small(x))


def test_codebooks_of_a_composition_can_be_looked_at() -> None:
    compressor = bind_method("l1+kernel-clustering", small_network("plain"))
    assert compressor.info.has_centroids
    assert not method_info("l1+kse").has_centroids
    last = compressor.allocation([len(site.settings) - 1 for site in compressor.sites])
    small = compressor.compress(last)
    books = compressor.centroids(small)
    assert {book.name: int(book.counts.sum()) for book in books} == {
        name: layer.index.numel() for name, layer in codebook_layers(small).items()
    }


def test_strengths_are_shares_of_flops() -> None:
    """At the level of any setting, the method's sites together take off that share, whichever method it is."""
    compressor = bind_method("l1+kse", small_network("residual"))
    for method in ("l1", "kse"):
        own = [site for site in compressor.sites if site.name.startswith(f"{method}:")]
        for level in sorted({strength for site in own for strength in site.strengths})[::3]:
            levels = [_last_level(site, level) if site in own else 0 for site in compressor.sites]
            share = 1 - int(compressor.cost(np.array([levels])).flops[0]) / compressor.cost.dense.flops
            assert share == pytest.approx(level, abs=0.05)


def _last_level(site: Site, strength: float) -> int:
    return max(i for i, reached in enumerate(site.strengths) if reached <= strength)


def test_channels_are_scored_anew_when_calibrated_anew() -> None:
    network = small_network("plain")
    compressor = bind_method("taylor+kse", network)
    compressor.calibrate(random_batches(1))
    before = compressor.cost_of(at_random(compressor, 3))
    compressor.calibrate(random_batches(3, seed=5))
    allocation = at_random(compressor, 3)
    after = compressor.cost_of(allocation)
    assert after.flops == count_flops(train_compressed(compressor, allocation), example_input(SHAPE))
    assert before.params > 0


@pytest.mark.parametrize("method", ["l2+kse", "l2+kernel-clustering"])
@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_costs_on_every_kind_of_coupling(build: Callable[[], nn.Module], method: str) -> None:
    network = randomise_channels(build())
    example = example_input(pieces.SHAPE)
    compressor = create(method, network, example)
    comparable = count_flops(network, example) == compressor.cost.dense.flops
    for seed in range(3):
        allocation = at_random(compressor, seed)
        small = compressor.compress(allocation).eval()
        flops, params, _ = compressor.cost_of(allocation)
        assert flops == count_flops(small, example) or not comparable
        assert params == sum(parameter.numel() for parameter in small.parameters())
        with torch.no_grad():
            assert small(example).shape == network(example).shape
