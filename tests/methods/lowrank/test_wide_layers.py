"""Layers that read too many inputs for their second moment, against the same layers with it."""

from __future__ import annotations

import pytest
import torch
from regression import Regression
from torch import Tensor, nn

from methods.base import Allocation, Compressor
from methods.moments import layer_inputs
from methods.registry import create
from methods.testing.conformance import count_flops
from models.tasks.outputs import output_divergence

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(24, 10), (6000, 24)),
    "convolution": (nn.Conv2d(4, 10, 3, 2, 1), (150, 4, 12, 12)),
    "no bias": (nn.Linear(24, 10, bias=False), (6000, 24)),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A network of one layer, and inputs that are mixtures of a few signals about a mean."""
    module, shape = LAYERS[request.param]
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    mixing = torch.randn(channels, channels, generator=generator) * torch.logspace(0, -1.5, channels)
    return nn.Sequential(module).eval(), 1 + torch.einsum(
        "dc,nc...->nd...", mixing, torch.randn(shape, generator=generator)
    )


def _measured(network: nn.Module, x: Tensor, method: str) -> Compressor:
    compressor = create(method, network, x[:2])
    compressor.calibrate([(x,)], Regression())
    return compressor


@pytest.fixture
def _all_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_inputs, "_WIDEST", 0)


@pytest.mark.usefixtures("_all_are_wide")
@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_predicted_damage_is_that_of_the_outputs(layer: tuple[nn.Module, Tensor], method: str) -> None:
    network, x = layer
    compressor, dense = _measured(network, x, method), [network(x).detach()]
    (site,) = compressor.sites
    for setting, damage in zip(site.settings[1:], site.damages[1:], strict=True):
        small = compressor.compress(Allocation({site.name: setting}))
        assert len(small[0]) == 2  # the core and the expansion
        assert damage == pytest.approx(float(output_divergence([small(x).detach()], dense)), rel=0.1, abs=2e-3)


def test_factors_lose_as_little_as_with_the_moment_of_inputs(
    layer: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = layer
    channels, errors, shifts = x.shape[1], [], []
    for widest in (8192, 0):
        monkeypatch.setattr(layer_inputs, "_WIDEST", widest)
        setting = {"in_rank": channels, "out_rank": 3}
        lost = (_measured(network, x, "svd").compress(Allocation({"0": setting}))(x) - network(x)).detach()
        errors.append(float(lost.square().mean()))
        shifts.append(float(lost.transpose(0, 1).flatten(1).mean(1).norm()))
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
    if network[0].bias is not None:
        assert shifts[1] < 0.05 * errors[1] ** 0.5


@pytest.mark.usefixtures("_all_are_wide")
def test_a_narrowed_layer_keeps_its_mean() -> None:
    """The second of two layers loses inputs that are zero, and then directions of its outputs."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 10)).eval()
    x = torch.randn(4000, 6)
    with torch.no_grad():
        network[0].weight[8:] = network[0].bias[8:] = 0
    compressor = create("obs+svd", network, x[:2])
    compressor.calibrate([(x,)], Regression())
    narrowed = {"obs:0": next(site for site in compressor.sites if site.name == "obs:0").settings[4]}
    small = compressor.compress(Allocation(narrowed))
    factored = compressor.compress(Allocation({**narrowed, "svd:1": {"in_rank": 12, "out_rank": 3}}))
    assert factored[1][0].in_features == small[1].in_features == 8
    with torch.no_grad():
        means = [model(x).mean(0) for model in (network, factored)]
    torch.testing.assert_close(means[1], means[0], rtol=0.02, atol=0.01)


@pytest.mark.usefixtures("_all_are_wide")
def test_costs_are_those_of_the_counted_network(layer: tuple[nn.Module, Tensor]) -> None:
    """Without measurements too, which only unpacking does without."""
    network, x = layer
    compressor = create("tucker", network, x[:2])
    for level in range(len(compressor.sites[0].settings)):
        allocation = compressor.allocation([level])
        assert compressor.cost_of(allocation).flops == count_flops(compressor.compress(allocation), x[:2])
