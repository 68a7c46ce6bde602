"""The plain form of attention against PyTorch's own module, and networks that hold such modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv
from independent import count_cost, empty_removed, randomise_channels
from torch import Tensor, nn

from methods.graph.plain_attention import PlainAttention
from methods.registry import create

B, L, S, E, HEADS = 2, 5, 6, 8, 2
BOOLEAN_MASK = torch.triu(torch.ones(L, S, dtype=torch.bool), 1)
PADDING = torch.tensor([[False] * 5 + [True], [False] * 4 + [True] * 2])
CALLS: dict[str, dict[str, Any]] = {
    "bare": {},
    "no weights": {"need_weights": False},
    "weights of heads": {"average_attn_weights": False},
    "boolean mask": {"attn_mask": BOOLEAN_MASK},
    "float mask": {"attn_mask": torch.randn(L, S), "need_weights": False},
    "mask of heads": {"attn_mask": torch.randn(B * HEADS, L, S)},
    "padding": {"key_padding_mask": PADDING},
    "padding and mask": {"key_padding_mask": PADDING, "attn_mask": BOOLEAN_MASK, "need_weights": False},
    "causal": {"attn_mask": BOOLEAN_MASK, "is_causal": True, "need_weights": False},
}


def random_attention(**options: Any) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(E, HEADS, **options)
    randomise_channels(attention)
    return attention


def assert_same_results(results: Any, expected: Any) -> None:
    assert torch.allclose(results[0], expected[0], atol=1e-5)
    assert (results[1] is None) == (expected[1] is None)
    assert results[1] is None or torch.allclose(results[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_pytorchs_module(call: str, batch_first: bool) -> None:
    attention = random_attention(batch_first=batch_first)
    q, k, v = torch.randn(B, L, E), torch.randn(B, S, E), torch.randn(B, S, E)
    if not batch_first:
        q, k, v = (tensor.transpose(0, 1) for tensor in (q, k, v))
    assert_same_results(PlainAttention(attention)(q, k, v, **CALLS[call]), attention(q, k, v, **CALLS[call]))


@pytest.mark.parametrize("options", [{"bias": False}, {"kdim": 3, "vdim": 4}], ids=str)
def test_equals_pytorchs_module_of_other_widths(options: dict[str, Any]) -> None:
    attention = random_attention(batch_first=True, **options)
    inputs = torch.randn(B, L, E), torch.randn(B, S, options.get("kdim", E)), torch.randn(B, S, options.get("vdim", E))
    assert_same_results(PlainAttention(attention)(*inputs), attention(*inputs))


def test_one_example_without_a_batch() -> None:
    attention = random_attention()
    inputs = torch.randn(L, E), torch.randn(S, E), torch.randn(S, E)
    assert_same_results(PlainAttention(attention)(*inputs), attention(*inputs))


def test_frozen_weights_stay_frozen() -> None:
    plain = PlainAttention(random_attention().requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in plain.parameters())


def encoder() -> nn.Module:
    """PyTorch's own encoder layers, which run as one fused operator in evaluation."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(n.encoder(n.stem(x).flatten(2).transpose(1, 2)).mean(1))

    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Pieces(run_net, stem=conv(3, 8, stride=2), encoder=layers, fc=nn.Linear(8, CLASSES))


def cross_attention() -> nn.Module:
    """Queries from one layer, keys and values from another."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        tokens, memory = n.left(x).flatten(2).transpose(1, 2), F.relu(n.right(x)).flatten(2).transpose(1, 2)
        return n.fc(n.attention(tokens, memory, memory)[0].mean(1))

    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
    return Pieces(run_net, left=conv(3, 8), right=conv(3, 6, stride=2), attention=attention, fc=nn.Linear(8, CLASSES))


# A stream of 8 channels; in each of two heads of 4 channels, queries and keys lose the same ones, and values others.
BLOCK = {"self_attn.query": (8, 4), "self_attn.value": (8, 4), "linear1": (12, 12)}
ENCODER = {f"encoder.layers.{i}.{layer}": sizes for i in range(2) for layer, sizes in BLOCK.items()}
CROSS = {
    "left": (8, 8),
    "right": (6, 6),
    "attention.query": (8, 4),
    "attention.value": (8, 4),
    "attention.out_proj": (8, 8),
}


@pytest.mark.parametrize(("build", "sites"), [(encoder, {"stem": (8, 8)} | ENCODER), (cross_attention, CROSS)])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_networks_lose_channels_of_attention(build: Any, sites: dict[str, tuple[int, int]], share: float) -> None:
    network = randomise_channels(build())
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    compressor = create("l1", network, images[:2])
    assert {site.name: (site.channels, len(site.settings)) for site in compressor.sites} == sites
    allocation = compressor.allocation([int((len(site.settings) - 1) * share) for site in compressor.sites])
    small = compressor.compress(allocation)
    with torch.no_grad():
        outputs, expected = small(images), empty_removed(compressor.network, small)(images)
    assert torch.allclose(outputs, expected, atol=1e-4 * float(expected.abs().max()))
    assert compressor.cost_of(allocation) == count_cost(small, images)
    if share == 0:
        assert torch.allclose(outputs, network(images), atol=1e-4 * float(outputs.abs().max()))


def test_code_that_reaches_into_the_module_keeps_it() -> None:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        return n.fc((x + n.attention.in_proj_weight.mean() * n.attention(x, x, x)[0]).mean(1))

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    network = randomise_channels(Pieces(run_net, stem=conv(3, 8), attention=attention, fc=nn.Linear(8, CLASSES)))
    compressor = create("l1", network, torch.randn(2, *SHAPE))
    assert isinstance(compressor.network.attention, nn.MultiheadAttention)
