"""Networks whose code holds widths: they are narrowed like others, and compute what the emptied dense network does."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, conv, pool_mean
from independent import count_cost, empty_removed, randomise_channels
from torch import Tensor, nn

from methods.base import Compressor
from methods.registry import create


class Literal(nn.Module):
    """A flattening with a constant, of channels times positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2)
        return self.fc(x.view(-1, 24))


class WrittenSlices(nn.Module):
    """Four of twelve channels are written anew, and a tensor is filled slice by slice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.part, self.b, self.fc = conv(3, 12), conv(4, 4), conv(12, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = x.new_zeros(x.shape[0], 12, *x.shape[2:])
        y[:, :4] = self.part(x[:, :4])
        y[:, 4:] = x[:, 4:]
        return self.fc(pool_mean(F.relu(self.b(y))))


class UnequalSplit(nn.Module):
    """Parts of unequal width, whose sizes an attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [4, 3, 1]
        self.a = conv(3, 8)
        self.parts = nn.ModuleList(conv(size, 4) for size in self.sizes)
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(F.relu(self.a(x)), self.sizes, dim=1)
        outputs = [F.relu(layer(part)) for layer, part in zip(self.parts, parts, strict=True)]
        return self.fc(pool_mean(torch.cat(outputs, 1)))


class Slices(nn.Module):
    """Halves taken by index, the second one counted from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 5
        self.a, self.left, self.right, self.fc = conv(3, 8), conv(5, 4), conv(3, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.fc(pool_mean(F.relu(self.left(x[:, : self.c])) + F.relu(self.right(x[:, -3:]))))


class Scales(nn.Module):
    """Res2Net's block: a chain over equal parts, in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.a, self.fc = conv(3, 12), nn.Linear(12, CLASSES)
        self.steps = nn.ModuleList(conv(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = F.relu(self.a(x)).split(self.width, 1)
        done = [parts[0]]
        for i in range(2):
            done.append(F.relu(self.steps[i](done[-1] + parts[i + 1])))
        return self.fc(pool_mean(torch.cat(done, 1)))


class Shuffle(nn.Module):
    """A channel shuffle whose sizes are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8, groups=1), conv(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)
        return self.fc(pool_mean(F.relu(self.b(x))))


class Attention(nn.Module):
    """Heads as tutorials write them: their width and scale are computed from the width of the stream."""

    def __init__(self, *, fused: bool = False) -> None:
        super().__init__()
        self.fused, self.heads = fused, 2
        self.stem, self.qkv, self.out = conv(3, 8, 3), nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(x), 2).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.fc((x + self.out(y.transpose(1, 2).reshape(b, n, c))).mean(1))


class Pinned(nn.Module):
    """A size computed from a stream that is narrowed, of parts whose channels all stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.parts, self.out, self.fc = conv(3, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        first, second, third = self.parts(x).reshape(b, n, 3, c).unbind(2)
        return self.fc((x + self.out(first.cumsum(-1) * second + third)).mean(1))


def fused_attention() -> nn.Module:
    return Attention(fused=True)


# network -> {site: (channels, settings)}; equal parts of a split and heads lose channels at equal positions
SITES: dict[Callable[[], nn.Module], dict[str, tuple[int, int]]] = {
    Literal: {"a": (8, 8), "b": (6, 6)},
    Shuffle: {"a": (8, 4), "b": (6, 6)},
    WrittenSlices: {"a": (12, 4), "b": (6, 6)},
    UnequalSplit: {"a": (4, 4), "a[4:7]": (3, 3), "parts.0": (4, 4), "parts.1": (4, 4), "parts.2": (4, 4)},
    Slices: {"a": (5, 5), "a[5:8]": (3, 3), "left": (4, 4)},
    Scales: {"a": (12, 4), "steps.1": (4, 4)},
    Attention: {"stem": (8, 7), "qkv": (24, 4)},  # `dim // heads` of one channel is no width
    Pinned: {"stem": (8, 8)},
    fused_attention: {"stem": (8, 8), "qkv": (24, 4)},
}
NETWORKS = [pytest.param(build, id=build.__name__) for build in SITES]
IMAGES = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))


def bind_method(network: nn.Module) -> Compressor:
    return create("random", randomise_channels(network), torch.randn(2, *SHAPE))


def narrow_by(compressor: Compressor, *shares: float) -> nn.Module:
    """Of every site, this share of its settings further down; sites take turns among several shares."""
    levels = [int((len(site.settings) - 1) * shares[i % len(shares)]) for i, site in enumerate(compressor.sites)]
    return compressor.compress(compressor.allocation(levels))


@pytest.mark.parametrize("build", NETWORKS)
def test_sites(build: Callable[[], nn.Module]) -> None:
    compressor = bind_method(build())
    assert {site.name: (site.channels, len(site.settings)) for site in compressor.sites} == SITES[build]


@pytest.mark.parametrize("shares", [(0.5,), (1,), (0.7, 0.3)], ids=str)
@pytest.mark.parametrize("build", NETWORKS)
def test_narrowed_equals_emptied(build: Callable[[], nn.Module], shares: tuple[float, ...]) -> None:
    network = build()
    compressor = bind_method(network)
    levels = [int((len(site.settings) - 1) * shares[i % len(shares)]) for i, site in enumerate(compressor.sites)]
    small = narrow_by(compressor, *shares)
    expected = empty_removed(network, small)(IMAGES).detach()
    assert torch.allclose(small(IMAGES), expected, atol=1e-4 * float(expected.abs().max()))
    assert compressor.cost_of(compressor.allocation(np.array(levels))) == count_cost(small, IMAGES)


@pytest.mark.parametrize("build", NETWORKS)
def test_narrowed_is_trained_copied_and_stored(build: Callable[[], nn.Module]) -> None:
    small = narrow_by(bind_method(build()), 0.5)
    expected = small(IMAGES)
    expected.sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert torch.equal(copy.deepcopy(small)(IMAGES), expected)
    assert torch.equal(pickle.loads(pickle.dumps(small))(IMAGES), expected)


@pytest.mark.parametrize("build", NETWORKS)
def test_exported_program_has_the_narrow_widths(build: Callable[[], nn.Module]) -> None:
    small = narrow_by(bind_method(build()), 0.5).eval()
    program = torch.export.export(small, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for batch in (IMAGES, IMAGES[:1]):
        assert torch.allclose(program.module()(batch), small(batch), atol=1e-5)


def test_code_that_fits_by_itself_runs_as_it_is() -> None:
    """Sizes taken from shapes need no help, so that the network runs on images of another size as well."""

    class Flexible(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.b(F.relu(self.a(x))))
            b, c, h, w = x.shape
            return self.fc(x.view(b, c, h * w).mean(2))

    small = narrow_by(bind_method(Flexible()), 0.5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert small(torch.randn(2, 3, 12, 20)).shape == (2, CLASSES)


def test_channels_beside_the_batch_in_one_dimension() -> None:
    """Sizes that hold batch and channels are left to the code: they differ from batch to batch."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            b, c, h, w = x.shape
            x = F.max_pool1d(x.reshape(b * c * h, w, 1).transpose(1, 2), 2).reshape(b, c, h, w // 2)
            return self.fc(pool_mean(F.relu(self.b(x))))

    network = Folded()
    compressor = bind_method(network)
    assert {site.name: len(site.settings) for site in compressor.sites} == {"a": 8, "b": 6}
    small = narrow_by(compressor, 0.5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert torch.allclose(small(IMAGES), empty_removed(network, small)(IMAGES), atol=1e-3)


def test_an_error_leaves_no_numbers_behind() -> None:
    small = narrow_by(bind_method(Literal()), 0.5)
    with pytest.raises(RuntimeError):
        small(torch.randn(2, 4, 8, 8))
    assert torch.zeros(2, 24).view(-1, 24).shape == (2, 24)
    assert small(IMAGES).shape == (3, CLASSES)


def test_a_width_that_code_insists_on_is_named_with_its_line() -> None:
    class Insists(Literal):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            if x.shape[1] != 8:
                raise ValueError("eight channels were promised")
            return self.fc(pool_mean(F.relu(self.b(x))))

    network = Insists()
    network.fc = nn.Linear(6, CLASSES)
    line = Insists.forward.__code__.co_firstlineno + 3
    reason = f"without its channels, the network (test_replaced_numbers.py:{line}) does not run"
    assert bind_method(network).skipped["a"] == reason


class ValuesOfAnotherWidth(nn.Module):
    """Reduced keys and values, as pyramid transformers have them: `c` is the width of the stream, not of the values."""

    def __init__(self) -> None:
        super().__init__()
        self.stream, self.wide, self.back = nn.Conv2d(3, 16, 1), nn.Linear(16, 24), nn.Linear(24, 16)
        self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 32)
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stream(images).flatten(2).mT
        x = x + self.back(torch.relu(self.wide(x)))
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, 2, -1).transpose(1, 2)
        k, v = self.kv(x).reshape(b, n, 2, 2, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return torch.as_tensor(self.head((x + self.out(y)).mean(1)))


def test_a_width_that_two_groups_share_in_the_dense_network_is_each_ones_own() -> None:
    torch.manual_seed(0)
    network, images = ValuesOfAnotherWidth(), torch.randn(2, 3, 4, 4)
    compressor = create("l1", network, images)
    widths = {site.name: range(len(site.settings)) for site in compressor.sites}
    assert widths == {"stream": range(16), "wide": range(24), "q": range(8)}
    for stream, heads in itertools.product(widths["stream"], widths["q"]):
        levels = np.array([{"stream": stream, "wide": 0, "q": heads}[site.name] for site in compressor.sites])
        narrowed = compressor.compress(compressor.allocation(levels))
        assert narrowed(images).shape == (2, 10)
