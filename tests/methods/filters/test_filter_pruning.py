"""Every criterion against a second implementation in loops, on groups whose channels have several producers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from coupled_nets import branches, chains, grouping
from coupled_nets.pieces import CLASSES, SHAPE
from independent import randomise_channels, surviving_positions
from torch import Tensor, nn

from methods.base import Compressor
from methods.graph.channel_sites import removal_levels
from methods.registry import create

EXAMPLE = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
CRITERIA = ["l1", "l2", "fpgm", "bn-scale", "taylor", "random"]


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [(torch.randn(5, *SHAPE, generator=generator), torch.randint(CLASSES, (5,), generator=generator))
            for _ in range(count)]  # fmt: skip


def bind_method(method: str, network: nn.Module) -> Compressor:
    compressor = create(method, network, EXAMPLE)
    if method == "taylor":
        compressor.calibrate(batches())
    return compressor


def norm_score(module: nn.Module, channel: int, power: int) -> float:
    total = sum(abs(w) ** power for w in module.weight[channel].flatten().tolist())  # type: ignore[union-attr]
    return total ** (1 / power)


def fpgm_score(module: nn.Module, channel: int) -> float:
    rows = [row.flatten().tolist() for row in module.weight]  # type: ignore[union-attr]
    return sum(math.dist(rows[channel], other) for other in rows)


def loss_with(
    network: nn.Module, module: nn.Module, channel: int, factor: float, batch: tuple[Tensor, Tensor]
) -> float:
    weight = module.weight.data  # type: ignore[union-attr]
    saved = weight[channel].clone()
    weight[channel] *= factor
    loss = float(nn.functional.cross_entropy(network(batch[0]), batch[1]))
    weight[channel] = saved
    return loss


@torch.no_grad()
def taylor_score(network: nn.Module, module: nn.Module, channel: int) -> float:
    """|Σ w · ∂L/∂w| is how fast the loss changes as the filter is scaled: no gradient is asked for here."""
    network, step, slopes = network.double(), 1e-4, []
    for inputs, labels in batches():
        batch = (inputs.double(), labels)
        up, down = (loss_with(network, module, channel, 1 + sign * step, batch) for sign in (1, -1))
        slopes.append((up - down) / (2 * step))
    return sum(abs(slope) for slope in slopes) / len(slopes)


def expected_scores(method: str, network: nn.Module, site: str) -> list[float]:
    """Of the two sites of `residual`: the stem's channels are made by stem and c2, its norm is bn2; c1 stands alone."""
    makers = {"stem": ["stem", "c2"], "c1": ["c1"]}[site]
    modules = [network.get_submodule(name) for name in makers]
    norm = network.get_submodule({"stem": "bn2", "c1": "bn1"}[site])
    score = {
        "l1": lambda m, i: norm_score(m, i, 1),
        "l2": lambda m, i: norm_score(m, i, 2),
        "fpgm": fpgm_score,
        "bn-scale": lambda m, i: abs(norm.weight.tolist()[i]),
        "taylor": lambda m, i: taylor_score(network, m, i),
    }[method]
    return [sum(score(m, i) for m in modules) / len(modules) for i in range(len(modules[0].weight))]


@pytest.mark.parametrize("site", ["stem", "c1"])
@pytest.mark.parametrize("method", [name for name in CRITERIA if name != "random"])
def test_keeps_the_highest_scores_of_a_second_implementation(method: str, site: str) -> None:
    network = randomise_channels(branches.residual())
    compressor = bind_method(method, network)
    scores = expected_scores(method, randomise_channels(branches.residual()), site)
    chosen = next(each for each in compressor.sites if each.name == site)
    for level, setting in enumerate(chosen.settings):
        small = compressor.compress(compressor.allocation([level if s is chosen else 0 for s in compressor.sites]))
        channels = surviving_positions(network.get_submodule(site).bias, small.get_submodule(site).bias).tolist()  # type: ignore[arg-type]
        best = sorted(sorted(range(chosen.channels), key=lambda i: -scores[i])[: chosen.channels - level])
        assert channels == best, setting


@pytest.mark.parametrize("method", CRITERIA)
def test_kept_filters_are_those_of_the_dense_network_in_order(method: str) -> None:
    """No weight is changed, and stronger settings keep subsets of what gentler ones keep."""
    network = randomise_channels(chains.plain())
    compressor = bind_method(method, network)
    previous = set(range(12))
    for level in range(12):
        small = compressor.compress(compressor.allocation([0, level]))
        channels = surviving_positions(network.c2.bias, small.c2.bias)  # type: ignore[arg-type, union-attr]
        assert torch.equal(small.c2.weight, network.c2.weight[channels])  # type: ignore[union-attr, index]
        assert torch.equal(small.bn2.running_var, network.bn2.running_var[channels])  # type: ignore[union-attr, index]
        assert torch.equal(small.fc.weight, network.fc.weight[:, channels])  # type: ignore[union-attr, index]
        assert set(channels.tolist()) <= previous
        previous = set(channels.tolist())
    assert len(previous) == 1


@pytest.mark.parametrize("method", CRITERIA)
def test_deterministic(method: str) -> None:
    """Two bindings to equal networks agree, whatever the random state."""
    results = []
    for state in (0, 1):
        torch.manual_seed(state)
        compressor = bind_method(method, randomise_channels(branches.residual()))
        results.append(compressor.compress(compressor.allocation([3, 2])).state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_random_follows_its_seed() -> None:
    network = randomise_channels(chains.plain())
    channels = []
    for seed in range(4):
        compressor = create("random", network, EXAMPLE, {"seed": seed})
        small = compressor.compress(compressor.allocation([4, 6]))
        channels.append(tuple(surviving_positions(network.c2.bias, small.c2.bias).tolist()))  # type: ignore[arg-type, union-attr]
    assert len(set(channels)) > 1


def test_grouped_convolutions_keep_the_best_of_each_group() -> None:
    network = randomise_channels(grouping.grouped())
    compressor = create("l2", network, EXAMPLE)
    small = compressor.compress(compressor.allocation([0, 2, 0]))
    norms = [norm_score(network.grouped, i, 2) for i in range(18)]  # type: ignore[arg-type]
    best = [
        i for block in range(3) for i in sorted(sorted(range(6 * block, 6 * block + 6), key=lambda i: -norms[i])[:4])
    ]
    assert surviving_positions(network.grouped.bias, small.grouped.bias).tolist() == best  # type: ignore[arg-type, union-attr]


def test_transposed_convolutions_are_scored_by_output_channel() -> None:
    network = randomise_channels(chains.transposed())
    compressor = create("l1", network, EXAMPLE)
    small = compressor.compress(compressor.allocation([0, 3, 0]))
    sums = [float(network.up.weight[:, i].detach().abs().sum()) for i in range(6)]  # type: ignore[union-attr, index]
    best = sorted(sorted(range(6), key=lambda i: -sums[i])[:3])
    assert surviving_positions(network.up.bias, small.up.bias).tolist() == best  # type: ignore[arg-type, union-attr]


def test_transposed_convolutions_in_groups_keep_the_best_of_each_group() -> None:
    network = randomise_channels(grouping.transposed_in_groups())
    compressor = create("l1", network, EXAMPLE)
    small = compressor.compress(compressor.allocation([0, 1, 0]))
    weight = network.up.weight.detach()  # (12, 3, 2, 2): four inputs and three outputs of each group
    sums = [float(weight[4 * (i // 3) : 4 * (i // 3) + 4, i % 3].abs().sum()) for i in range(9)]  # type: ignore[index]
    best = [i for block in range(0, 9, 3) for i in range(block, block + 3) if sums[i] != min(sums[block : block + 3])]
    assert surviving_positions(network.up.bias, small.up.bias).tolist() == best  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("method", ["l1", "fpgm", "taylor"])
def test_transposed_depthwise_filters_are_told_apart(method: str) -> None:
    """A channel whose kernels are zero on both layers that write it goes first."""
    torch.manual_seed(0)
    upsample = nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), upsample, nn.Conv2d(6, 4, 1), nn.Flatten(), nn.LazyLinear(CLASSES)
    )
    network(torch.zeros(1, *SHAPE))
    with torch.no_grad():
        for layer in network[:2]:
            layer.weight *= torch.tensor([9.0, 8.0, 7.0, 0.0, 6.0, 5.0]).view(-1, 1, 1, 1) / 9
    compressor = bind_method(method, network.eval())
    site = compressor.sites[0]
    small = compressor.compress(compressor.allocation([1, *[0] * (len(compressor.sites) - 1)]))
    assert "1" in site.layers
    stays = [0, 1, 2, 4, 5] if method != "fpgm" else surviving_positions(network[1].bias, small[1].bias).tolist()
    assert torch.equal(small[1].weight, network[1].weight[stays])


@pytest.mark.parametrize("method", ["l1", "taylor"])
def test_half_precision_networks_are_scored(method: str) -> None:
    network = branches.residual().half().eval()
    data = [(inputs.half(), labels) for inputs, labels in batches()]
    compressor = create(method, network, data[0][0])
    compressor.calibrate(data)
    small = compressor.compress(compressor.allocation([1 for _ in compressor.sites]))
    assert small(data[0][0]).dtype == torch.half


def test_bn_scale_without_norms_falls_back_on_l1() -> None:
    network = randomise_channels(chains.without_norm())
    weights = [create(method, network, EXAMPLE) for method in ("bn-scale", "l1")]
    first, second = (each.compress(each.allocation([3, 5])).state_dict() for each in weights)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_taylor_insists_on_calibration_and_leaves_the_network_alone() -> None:
    network = randomise_channels(branches.residual()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    compressor = create("taylor", network, EXAMPLE)
    with pytest.raises(ValueError, match="calibrate"):
        compressor.compress(compressor.allocation([1, 1]))
    compressor.calibrate(batches())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_calibrating_again_replaces_the_scores() -> None:
    network = randomise_channels(branches.residual())
    twice, once = create("taylor", network, EXAMPLE), create("taylor", network, EXAMPLE)
    twice.calibrate(batches()[:1])
    twice.compress(twice.allocation([3, 2]))
    twice.calibrate(batches())
    once.calibrate(batches())
    first, second = (each.compress(each.allocation([3, 2])).state_dict() for each in (twice, once))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_order_of_removal_by_brute_force() -> None:
    """Among all balanced choices the one of the highest sum; ties go to the lower channel."""
    generator = torch.Generator().manual_seed(0)
    partition = torch.tensor([0, 1, 0, 1, 1, 0])
    for _ in range(20):
        scores = torch.rand(6, generator=generator)
        for keep in (2, 4):
            balanced = [
                c for c in itertools.combinations(range(6), keep) if sum(int(partition[i]) for i in c) == keep // 2
            ]
            best = max(balanced, key=lambda c: sum(float(scores[i]) for i in c))
            level = (6 - keep) // 2  # each level takes one of either class
            assert tuple((removal_levels(scores, partition) > level).nonzero().flatten().tolist()) == best
    assert (removal_levels(torch.zeros(6), partition) > 1).nonzero().flatten().tolist() == [0, 1, 2, 3]
