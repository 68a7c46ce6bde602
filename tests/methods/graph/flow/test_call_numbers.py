"""Narrowed networks on other images, batches and in training than those that were traced: as the emptied dense one."""

from __future__ import annotations

import pickle

import pytest
import torch
from coupled_nets import called_code, sized_code
from independent import empty_removed, randomise_channels
from torch import Tensor, nn

from methods.base import Compressor
from methods.registry import create

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OTHERS = [(1, 8, 8), (5, 8, 8), (1, 16, 8), (2, 12, 20), (3, 24, 24), (2, 4, 4)]

# network -> {site: (channels, settings)}
SITES: dict[type[nn.Module], dict[str, tuple[int, int]]] = {
    sized_code.Positions: {"a": (8, 8), "b": (6, 6)},
    sized_code.ChannelsInBatch: {"a": (8, 8), "b": (6, 6)},
    sized_code.BatchInChannels: {"b": (6, 6)},
    sized_code.PixelShuffle: {"a": (16, 4), "b": (6, 6)},
    sized_code.PatchMerging: {"a": (8, 8), "reduce": (8, 8), "b": (6, 6)},
    sized_code.Windows: {"a": (8, 8), "qkv": (24, 4), "b": (6, 6)},
    sized_code.HeadsInBatch: {"a": (8, 8), "q": (12, 4), "v": (12, 4), "b": (6, 6)},
    sized_code.Recurrent: {"a": (8, 8), "block.mix": (8, 4), "b": (6, 6)},
    sized_code.Pyramid: {"a": (8, 8), "b": (6, 6)},
    called_code.DropsLayers: {"stem": (8, 8), "wide.0": (4, 4), "wide.1": (9, 9), "wide.2": (16, 16)},
    called_code.Helper: {"stem": (8, 8), "wide.0": (4, 4), "wide.1": (9, 9), "wide.2": (16, 16)},
    called_code.Nested: {"wide": (8, 4), "inner.wide": (8, 4), "inner.inner.wide": (8, 8)},
    called_code.HelperWithLiteral: {"stem": (8, 8), "wide.0": (8, 4), "wide.1": (8, 4)},
    sized_code.TrainsInBatch: {"b": (6, 6)},
    sized_code.Item: {"a": (8, 8), "b": (6, 6)},
    sized_code.RootOfSizes: {"a": (8, 8), "b": (6, 6)},
    sized_code.ProductOfSizes: {"a": (8, 8), "b": (6, 6)},
    sized_code.SumOfSizes: {"b": (6, 6)},
    sized_code.ByShape: {"b": (6, 6)},
    sized_code.GroupedStatistics: {"a": (8, 2), "b": (6, 6)},
    sized_code.WidthOfAnother: {"stream": (8, 8), "values": (8, 8), "b": (6, 6)},
    sized_code.OnlyTraining: {"a": (8, 2), "b": (6, 6)},
    called_code.CallsMethods: {"body.a": (8, 4), "body.b": (6, 6), "other.a": (8, 4), "other.b": (6, 6)},
}
NETWORKS = [pytest.param(kind, id=kind.__name__) for kind in SITES]


def bind_method(network: nn.Module) -> Compressor:
    return create("random", randomise_channels(network), EXAMPLE)


def narrow_pair(kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A narrowed network, whose sites lose unequal shares, and the dense one with the same channels emptied."""
    network = kind()
    compressor = bind_method(network)
    levels = [-(-(len(site.settings) - 1) // (2 + i % 2)) for i, site in enumerate(compressor.sites)]
    small = compressor.compress(compressor.allocation(levels)).eval()
    return small, empty_removed(network, small)


def nearly_equal(output: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    largest = float(expected.detach().abs().max())
    return output.shape == expected.shape and torch.allclose(output, expected, atol=tolerance * largest)


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_other_images_and_batches(kind: type[nn.Module]) -> None:
    compressor = bind_method(kind())
    assert {site.name: (site.channels, len(site.settings)) for site in compressor.sites} == SITES[kind]
    small, emptied = narrow_pair(kind)
    again = pickle.loads(pickle.dumps(small))
    for number, height, width in OTHERS:
        images = 3 * torch.randn(number, 3, height, width)
        expected = emptied(images)
        assert nearly_equal(small(images), expected)
        assert nearly_equal(again(images), expected)


@pytest.mark.parametrize("kind", [called_code.DropsLayers, called_code.Helper, called_code.HelperWithLiteral])
@pytest.mark.parametrize("dropped", [(0,), (1,), (0, 1)])
@torch.no_grad()
def test_calls_that_training_leaves_out(kind: type[called_code.DropsLayers], dropped: tuple[int, ...]) -> None:
    small, emptied = narrow_pair(kind)
    small.dropped = emptied.dropped = dropped
    assert nearly_equal(small(EXAMPLE), emptied(EXAMPLE))


@pytest.mark.parametrize("kind", [sized_code.OnlyTraining, sized_code.TrainsInBatch])
@torch.no_grad()
def test_numbers_of_training_alone(kind: type[nn.Module]) -> None:
    small, emptied = narrow_pair(kind)
    for seed in range(3):
        images, outputs = torch.randn(2 + seed, 3, 8, 8), []
        for network in (small, emptied):
            torch.manual_seed(seed)
            outputs.append(network.train()(images))
        assert nearly_equal(*outputs)


@pytest.mark.parametrize("kind", [sized_code.Positions, sized_code.ChannelsInBatch, sized_code.Windows])
def test_a_program_exported_for_any_batch(kind: type[nn.Module]) -> None:
    small, emptied = narrow_pair(kind)
    program = torch.export.export(small, (EXAMPLE,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for number in (1, 5):
        images = torch.randn(number, *EXAMPLE.shape[1:])
        assert nearly_equal(program.module()(images), emptied(images))


def test_types_of_autocast_change_no_number() -> None:
    small, emptied = narrow_pair(sized_code.Windows)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert nearly_equal(small(EXAMPLE), emptied(EXAMPLE), tolerance=0.05)


@pytest.mark.parametrize(("kind", "reason"), [
    (sized_code.SumOfSizes, "removing its channels changes more than those channels in images of another size"),
    (sized_code.ByShape, "removing its channels changes more than those channels in images of another size"),
])  # fmt: skip
def test_what_would_be_wrong_on_other_images_stays_dense(kind: type[nn.Module], reason: str) -> None:
    assert bind_method(kind()).skipped["a"] == reason


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpoints_of_modules(reentrant: bool) -> None:
    compressor = bind_method(called_code.Attends(called_code.CheckpointedModule(reentrant=reentrant)))
    small = compressor.compress(compressor.allocation([3] * len(compressor.sites))).train()
    assert len(small.attention.inner.qkv.weight) < 24
    gradients = []
    for small.attention.checkpointed in (True, False):
        small.zero_grad()
        small(EXAMPLE).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in small.parameters()])
    assert all(map(nearly_equal, *gradients))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpoints_that_would_recompute_with_other_numbers(reentrant: bool) -> None:
    network = called_code.Attends(called_code.CheckpointedMethod(reentrant=reentrant))
    assert bind_method(network).skipped["attention.qkv"].endswith("does not run in training")

    network.attention.checkpointed = False
    compressor = bind_method(network)
    small = compressor.compress(compressor.allocation([3] * len(compressor.sites))).train()
    assert len(small.attention.qkv.weight) < 24
    small(EXAMPLE).sum().backward()
    small.attention.checkpointed = True
    with pytest.raises(RuntimeError, match="gradient checkpoint"):
        small(EXAMPLE)
    assert small.eval()(EXAMPLE).shape == (2, 7)
