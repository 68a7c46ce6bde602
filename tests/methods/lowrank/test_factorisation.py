"""`svd` and `tucker` on networks: damages against what the outputs lose, means kept by biases, costs as counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from regression import Regression
from torch import Tensor, nn

from methods.base import Allocation, Compressor, example_input
from methods.registry import create
from methods.testing.conformance import count_flops
from methods.testing.small_networks import NETWORKS, input_shape, random_batches, small_network
from models.tasks.classification import CLASSIFICATION
from models.tasks.outputs import output_divergence


def _correlated_inputs(shape: tuple[int, ...], mean: float, seed: int = 0) -> Tensor:
    """Channels that are mixtures of each other, about a mean."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    mixing = torch.randn(channels, channels, generator=generator) * torch.logspace(0, -1.5, channels)
    noise = torch.randn(shape, generator=generator)
    return torch.einsum("dc,nc...->nd...", mixing, noise) + mean


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_damages_of_a_linear_regression_are_what_the_outputs_lose(mean: float) -> None:
    """The prediction is exact there, but for damping and for the random directions that G is measured along."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 9, bias=False)).eval()
    x = _correlated_inputs((6000, 12), mean)
    compressor = create("svd", network, x[:2])
    compressor.calibrate([(x,)], Regression())
    (site,) = compressor.sites
    assert site.damages[0] == 0
    dense = [network(x).detach()]
    for setting, damage in zip(site.settings[1:], site.damages[1:], strict=True):
        small = compressor.compress(Allocation({site.name: setting}))
        lost = float(output_divergence([small(x).detach()], dense))
        assert damage == pytest.approx(lost, rel=0.1, abs=1e-3)


def test_damages_rank_layers_as_their_measured_drift_does() -> None:
    network, batches = small_network("plain"), random_batches(4, 64)
    compressor = create("tucker", network, batches[0][0][:2])
    compressor.calibrate(batches)
    predicted, measured = [], []
    for site in compressor.sites:
        damages = site.damages
        assert len(damages) == len(site.settings)
        assert list(damages) == sorted(damages)
        for level in range(1, len(site.settings), 6):
            small = compressor.compress(Allocation({site.name: site.settings[level]}))
            outputs = [CLASSIFICATION.outputs(model, batches[0]) for model in (small, network)]
            with torch.no_grad():
                measured.append(float(output_divergence(*outputs)))
            predicted.append(damages[level])
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    assert np.corrcoef(*ranks)[0, 1] > 0.9


BIASED: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 10), (4000, 12)),
    "convolution": (nn.Conv2d(8, 8, 3), (64, 8, 10, 10)),
    "padding, strided": (nn.Conv2d(8, 8, 3, 2, 1), (64, 8, 12, 12)),
    "transposed": (nn.ConvTranspose2d(8, 8, 2, 2), (64, 8, 8, 8)),
    "transposed signal": (nn.ConvTranspose1d(8, 8, 3, 3), (64, 8, 40)),
}


@pytest.mark.parametrize("method", ["svd", "tucker"])
@pytest.mark.parametrize("kind", BIASED)
def test_biases_keep_the_mean_of_the_outputs(kind: str, method: str) -> None:
    layer, shape = BIASED[kind]
    network = nn.Sequential(layer).eval()
    x = _correlated_inputs(shape, 2.0)
    compressor = create(method, network, x[:2])
    compressor.calibrate([(x,)], Regression())
    (site,) = compressor.sites
    small = compressor.compress(Allocation({site.name: site.settings[-1]}))

    def mean_of(model: nn.Module) -> Tensor:
        outputs = model(x).detach()
        return outputs.transpose(0, 1).flatten(1).mean(1)

    shift = (mean_of(small) - mean_of(network)).norm()
    with torch.no_grad():
        small[0][-1].bias.copy_(layer.bias)
    unrepaired = (mean_of(small) - mean_of(network)).norm()
    assert float(shift) < 0.06 * float(unrepaired)  # patches of convolutions are drawn at random


def test_calibrated_factors_lose_less_than_uncalibrated_ones() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 8, 3)).eval()
    x = _correlated_inputs((64, 8, 10, 10), 0.0)
    lost = []
    for calibrated in (False, True):
        compressor = create("tucker", network, x[:2])
        if calibrated:
            compressor.calibrate([(x,)], Regression())
        small = compressor.compress(Allocation({"0": {"in_rank": 3, "out_rank": 4}}))
        lost.append(float((small(x) - network(x)).detach().square().mean()))
    assert lost[1] < 0.7 * lost[0]


def _draw_allocation(compressor: Compressor, seed: int) -> Allocation:
    sizes = [len(site.settings) for site in compressor.sites]
    return compressor.allocation(np.random.default_rng(seed).integers(sizes))


@pytest.mark.parametrize("method", ["svd", "tucker", "l1+svd", "l1+tucker"])
@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_counted_network(name: str, method: str) -> None:
    network, example = small_network(name), example_input(input_shape(name))
    compressor = create(method, network, example)
    for seed in range(5):
        allocation = _draw_allocation(compressor, seed)
        small = compressor.compress(allocation).eval()
        cost = compressor.cost_of(allocation)
        assert cost.flops == count_flops(small, example)
        assert cost.params == sum(parameter.numel() for parameter in small.parameters())
        assert cost.bytes == 4 * cost.params


def test_a_narrowed_layer_is_factored_in_the_metric_of_what_is_left() -> None:
    """Of channels that l1 leaves alone, the factors are those of the narrowed network measured anew."""
    network, batches = small_network("plain"), random_batches(4, 64)
    both, narrowing = (create(method, network, batches[0][0][:2]) for method in ("l1+tucker", "l1"))
    both.calibrate(batches)
    widths = {site.name: site.settings[site.channels // 3] for site in narrowing.sites}
    narrow = narrowing.compress(Allocation(widths)).eval()
    site = next(site for site in both.sites if site.name == "tucker:features.1.0")
    setting = {"in_rank": 4, "out_rank": 5}
    small = both.compress(Allocation({**{f"l1:{name}": value for name, value in widths.items()}, site.name: setting}))
    alone = create("tucker", narrow, batches[0][0][:2])
    alone.calibrate(batches)
    again = alone.compress(Allocation({"features.1.0": setting}))
    x = batches[0][0]
    with torch.no_grad():
        dense, first, second = (model.eval()(x) for model in (narrow, small, again))
    assert torch.equal(small.features[0][0].weight, narrow.features[0][0].weight)
    error, least = ((output - dense).square().mean() for output in (first, second))
    assert float(error) < 2 * float(least) + 1e-6


def test_frozen_layers_stay_frozen() -> None:
    network = small_network("residual")
    network.features[1].requires_grad_(False)
    compressor = create("tucker", network, example_input((3, 12, 12)))
    compressor.calibrate(random_batches(1))
    small = compressor.compress(compressor.allocation([1] * len(compressor.sites)))
    assert not any(parameter.requires_grad for parameter in small.features[1].parameters())
    assert all(parameter.requires_grad for parameter in small.features[2].parameters())


class _Unheard(nn.Module):
    """Calls a layer whose output nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.unheard = nn.Linear(12, 9), nn.Linear(12, 9)

    def forward(self, x: Tensor) -> Tensor:
        self.unheard(x)
        return self.heard(x)


def test_a_layer_that_no_output_depends_on_is_no_loss() -> None:
    torch.manual_seed(0)
    x = _correlated_inputs((200, 12), 0.0)
    compressor = create("svd", _Unheard().eval(), x[:2])
    compressor.calibrate([(x,)], Regression())
    damages = {site.name: site.damages for site in compressor.sites}
    assert len(damages["unheard"]) > 1
    assert not any(damages["unheard"])
    assert damages["heard"][-1] > 0


class _FrozenBody(nn.Module):
    """The usual way to train a head alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 9), nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x).tanh()
        return self.head(x)


@pytest.mark.parametrize("method", ["svd", "obs"])
def test_where_gradients_are_cut_off_no_damage_is_predicted(method: str) -> None:
    torch.manual_seed(0)
    x = _correlated_inputs((200, 12), 0.0)
    network = nn.Sequential(nn.Linear(12, 12), _FrozenBody()).eval()
    compressor = create(method, network, x[:2])
    compressor.calibrate([(x,)], Regression())
    damages = {site.name: site.damages for site in compressor.sites}
    unknown = "1.body" if method == "svd" else "0"  # the layer itself, and one whose channels are read there
    assert damages[unknown] == ()
    assert damages["1.head" if method == "svd" else "1.body"] != ()
