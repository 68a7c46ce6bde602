"""Factored layers of all kinds against the dense layer, whose weights are made to have the ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.lowrank.decomposition import Decomposition
from methods.lowrank.factored_layer import FactoredLayer, factor_layer, outline_layer, surround_layer, weight_by_output
from methods.lowrank.factored_rates import FactoredTuning

R1, R2 = 3, 4  # of 5 inputs and 6 outputs
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "linear": (nn.Linear, {}, (5,)),
    "linear on tokens, no bias": (nn.Linear, {"bias": False}, (4, 5)),
    "signal": (nn.Conv1d, {"kernel_size": 3, "stride": 2, "padding": 1}, (5, 11)),
    "signal, circular": (nn.Conv1d, {"kernel_size": 5, "padding": 2, "padding_mode": "circular"}, (5, 9)),
    "image": (nn.Conv2d, {"kernel_size": 3, "bias": False}, (5, 7, 8)),
    "image, oblong, strided": (nn.Conv2d, {"kernel_size": (3, 1), "stride": (1, 2), "padding": (1, 0)}, (5, 7, 8)),
    "image, dilated, same": (nn.Conv2d, {"kernel_size": 3, "dilation": 2, "padding": "same"}, (5, 7, 8)),
    "image, reflecting": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, (5, 7, 8)),
    "image, replicating": (nn.Conv2d, {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"}, (5, 7, 8)),
    "pointwise, strided": (nn.Conv2d, {"kernel_size": 1, "stride": 2, "padding": 1}, (5, 7, 8)),
    "clip": (nn.Conv3d, {"kernel_size": (1, 3, 2), "stride": (1, 2, 1), "padding": (0, 1, 1)}, (5, 3, 6, 5)),
    "transposed signal": (nn.ConvTranspose1d, {"kernel_size": 4, "stride": 2, "padding": 1}, (5, 6)),
    "transposed image": (nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "output_padding": 1}, (5, 5, 4)),
    "transposed, dilated, no bias": (nn.ConvTranspose2d, {"kernel_size": 3, "dilation": 2, "bias": False}, (5, 5, 4)),
    "transposed clip": (nn.ConvTranspose3d, {"kernel_size": 2, "stride": 2}, (5, 2, 3, 3)),
}


@torch.no_grad()
def _low_rank_layer(name: str, in_rank: int, out_rank: int) -> tuple[nn.Module, Tensor]:
    """A layer whose weights read `in_rank` directions of its inputs and write `out_rank` of its outputs, and inputs."""
    kind, options, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(5, 6, **options).double()
    table = weight_by_output(layer)
    reads = torch.linalg.qr(torch.randn(5, 5).double())[0][:in_rank]
    writes = torch.linalg.qr(torch.randn(6, 6).double())[0][:, :out_rank]
    table = torch.einsum("nm,mdk,dc->nck", writes @ writes.T, table, reads.T @ reads)
    if getattr(layer, "transposed", False):
        table = table.transpose(0, 1)
    layer.weight.copy_(table.reshape(layer.weight.shape))
    return layer.eval(), torch.randn(2, *shape).double()


def _decompose(layer: nn.Module) -> Decomposition:
    weight = weight_by_output(layer)
    outputs, channels, taps = weight.shape
    eye = torch.eye(outputs, dtype=torch.float64)
    return Decomposition(weight, torch.eye(channels * taps, dtype=torch.float64), eye, eye)


@pytest.mark.parametrize(("in_rank", "out_rank"), [(5, 6), (R1, 6), (5, R2), (R1, R2)])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_have_the_ranks_lose_nothing(name: str, in_rank: int, out_rank: int) -> None:
    layer, x = _low_rank_layer(name, in_rank, out_rank)
    factored = factor_layer(layer, _decompose(layer).factors(in_rank, out_rank), layer.bias)
    parts = [part for part, _ in factored.named_children()]
    assert parts == ["inputs"] * (in_rank < 5) + ["core"] + ["outputs"] * (out_rank < 6)
    torch.testing.assert_close(factored(x), layer(x), rtol=1e-6, atol=1e-6)
    assert all(part.bias is None for part in list(factored)[:-1])
    assert (factored[-1].bias is None) == (layer.bias is None)


@pytest.mark.parametrize(("in_rank", "out_rank"), [(R1, 6), (5, R2), (R1, R2)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_penalty_reads_the_weight_that_the_factors_stand_for(name: str, in_rank: int, out_rank: int) -> None:
    layer, _ = _low_rank_layer(name, in_rank, out_rank)
    factored = factor_layer(layer, _decompose(layer).factors(in_rank, out_rank), layer.bias)
    torch.testing.assert_close(factored.weight, layer.weight, rtol=1e-6, atol=1e-6)
    assert (factored.bias is None) == (layer.bias is None)
    factored.weight.square().sum().backward()
    assert all(part.weight.grad.any() for part in factored)


@pytest.mark.parametrize("ranks", [(R1, R2), (R1, 6), (5, R2)])
@pytest.mark.parametrize("name", LAYERS)
def test_projections_and_expansions_are_orthonormal(name: str, ranks: tuple[int, int]) -> None:
    layer, _ = _low_rank_layer(name, 5, 6)
    factors = _decompose(layer).factors(*ranks)
    factored = factor_layer(layer, factors, layer.bias)
    parts = {part: weight_by_output(module) for part, module in factored.named_children()}
    inputs, outputs = (parts.get(side, torch.eye(width).double()[..., None])[..., 0]
                       for side, width in (("inputs", 5), ("outputs", 6)))  # fmt: skip
    torch.testing.assert_close(inputs @ inputs.mT, torch.eye(ranks[0]).double())
    torch.testing.assert_close(outputs.mT @ outputs, torch.eye(ranks[1]).double())
    torch.testing.assert_close(torch.einsum("no,ork,rc->nck", outputs, parts["core"], inputs), factors.product())


@pytest.mark.parametrize("scale", [0.1, 30.0])
@pytest.mark.parametrize("name", LAYERS)
def test_a_step_on_a_part_moves_the_layer_no_further_than_a_step_on_the_dense_one(name: str, scale: float) -> None:
    """One step of gradient descent on ⟨g, W'⟩, with each part alone; of weights of any size."""
    layer, _ = _low_rank_layer(name, 5, 6)
    with torch.no_grad():
        layer.weight.mul_(scale)
    factored = factor_layer(layer, _decompose(layer).factors(R1, R2), layer.bias)
    slope = torch.randn(6, 5, weight_by_output(layer).shape[2], dtype=torch.float64)
    before = _product(factored).detach()
    (_product(factored) * slope).sum().backward()
    groups = FactoredTuning(0.1).parameter_groups(factored)
    weights = {part.weight for part in factored}
    assert {p for group in groups for p in group["params"]} == set(factored.parameters())
    moves = []
    for group in groups:
        for weight in weights & set(group["params"]):
            kept = weight.detach().clone()
            with torch.no_grad():
                weight -= group.get("lr", 0.1) * weight.grad
                moves.append(float((_product(factored) - before).norm() / (0.1 * slope.norm())))
                weight.copy_(kept)
    assert len(moves) == 3
    assert max(moves) <= 1 + 1e-9
    assert min(moves) > (0.05 if scale > 1 else 1e-6)


def _product(factored: FactoredLayer) -> Tensor:
    """The weight of the layer that the parts are, (N, C, K), from which gradients flow back to them."""
    parts = {}
    for name, part in factored.named_children():
        table = part.weight.flatten(2) if part.weight.dim() > 2 else part.weight[..., None]
        parts[name] = table.transpose(0, 1) if getattr(part, "transposed", False) else table
    return torch.einsum("no,ork,rc->nck", parts["outputs"][..., 0], parts["core"], parts["inputs"][..., 0])


def test_parts_of_a_frozen_layer_stay() -> None:
    layer, _ = _low_rank_layer("image", R1, R2)
    network = nn.Sequential(factor_layer(layer.requires_grad_(False), _decompose(layer).factors(R1, R2), None))
    assert not FactoredTuning(0.1).parameter_groups(network)
    network.append(nn.Linear(2, 2))
    (group,) = FactoredTuning(0.1).parameter_groups(network)
    assert len(group["params"]) == 2


def test_the_output_size_of_a_transposed_convolution_is_its_cores() -> None:
    layer, x = _low_rank_layer("transposed image", R1, R2)
    factored = factor_layer(layer, _decompose(layer).factors(R1, R2), layer.bias)
    for size in ((11, 9), (12, 10)):
        expected = layer(x, output_size=list(size))
        assert expected.shape[2:] == size
        torch.testing.assert_close(factored(x, output_size=list(size)), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(factored(x, list(size)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_the_outline_has_shapes_mode_and_type_of_the_factors(name: str) -> None:
    layer, _ = _low_rank_layer(name, 5, 6)
    layer.requires_grad_(False).half()
    outline = outline_layer(layer, R1, R2)
    factored = factor_layer(layer, _decompose(layer).factors(R1, R2), layer.bias)
    for other in (outline, factored):
        assert isinstance(other, FactoredLayer)
        assert not other.training
        assert not any(parameter.requires_grad for parameter in other.parameters())
        assert {parameter.dtype for parameter in other.parameters()} == {torch.float16}
    shapes = [{key: tensor.shape for key, tensor in other.state_dict().items()} for other in (outline, factored)]
    assert shapes[0] == shapes[1]
    assert outline_layer(layer.train(), R1, R2).core.training


def test_directions_that_carry_nothing_do_no_harm() -> None:
    layer, x = _low_rank_layer("image", 1, 1)
    factored = factor_layer(layer, _decompose(layer).factors(4, 5), None)
    assert all(parameter.isfinite().all() for parameter in factored.parameters())
    torch.testing.assert_close(factored(x), layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_between_projections_of_full_rank_a_layer_does_what_it_did(name: str) -> None:
    layer, x = _low_rank_layer(name, R1, R2)
    surrounded = surround_layer(layer)
    assert [part for part, _ in surrounded.named_children()] == ["inputs", "core", "outputs"]
    torch.testing.assert_close(surrounded(x), layer(x))
