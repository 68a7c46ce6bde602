"""Layers that compute their weight give way to plain ones that do the same, and others are left as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from methods.base import copy_network
from methods.graph.channel_sites import ChannelGroups
from methods.graph.plain_layers import computed_weights, replace_computed
from methods.registry import create
from models.execution.inputs import Inputs

IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class StandardisedConv(nn.Conv2d):
    """Weights of mean zero and variance one over the inputs, as in BiT and NFNets."""

    def forward(self, x: Tensor) -> Tensor:
        spread, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (spread + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class GainedConv(StandardisedConv):
    """Times a gain that is zero in a fresh network, as in the last layer of a block of NFNets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.zeros(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        spread, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = self.gain * (self.weight - mean) / (spread + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SameStandardisedConv(StandardisedConv):
    """Padded as TensorFlow does: by what the size asks for, the odd pixel after the image."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for dim in (3, 2):
            lacking = 1 + x.shape[dim] % 2  # stride 2, kernel 3
            pads += [lacking // 2, lacking - lacking // 2]
        return super().forward(F.pad(x, pads))


class LopsidedConv(StandardisedConv):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (2, 0, 1, 0)))


class OwnForward(nn.Conv2d):
    """Its own way to call the convolution, with the weight as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class GatedByInput(nn.Conv2d):
    """The weight depends on the images: no plain layer does that."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias, padding=1)


def network_with(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1, bias=False)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Conv2d(3, 8, 3, stride=2)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, dilation=2)),
    "standardised": lambda: StandardisedConv(3, 8, 3, padding=1),
    "standardised, without gain": lambda: GainedConv(3, 8, 3),
    "standardised, same padding": lambda: SameStandardisedConv(3, 8, 3, stride=2),
    "standardised, lopsided padding": lambda: LopsidedConv(3, 8, 3),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_plain_layer_does_the_same_to_images_of_any_size(name: str) -> None:
    torch.manual_seed(0)
    network = network_with(COMPUTED[name]()).eval()
    state = torch.get_rng_state()
    shapes = computed_weights(network, Inputs.of(IMAGES))
    plain = copy_network(network)
    replace_computed(plain, shapes)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(shapes) == ["0"]
    assert set(dict(plain[0].named_parameters())) <= {"weight", "bias"}
    assert plain[0].weight.is_leaf
    for size in (9, 10, 13):
        images = torch.randn(2, 3, size, size)
        assert torch.allclose(plain(images), network(images), rtol=1e-4, atol=1e-6)


class StandardisedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean(1, keepdim=True)) / self.weight.std(1, keepdim=True)
        return F.linear(x, weight, self.bias)


NOT_OF_IMAGES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "weight-normed linear": (lambda: parametrizations.weight_norm(nn.Linear(5, 8)), (5,)),
    "weight-normed linear of tokens": (lambda: nn.utils.weight_norm(nn.Linear(5, 8, bias=False)), (7, 5)),
    "spectral linear": (lambda: parametrizations.spectral_norm(nn.Linear(5, 8)), (5,)),
    "standardised linear": (lambda: StandardisedLinear(5, 8), (5,)),
    "weight-normed, transposed": (
        lambda: nn.utils.weight_norm(nn.ConvTranspose2d(5, 8, 3, stride=2, output_padding=1)), (5, 6, 6),
    ),
    "weight-normed, transposed in groups": (
        lambda: parametrizations.weight_norm(nn.ConvTranspose1d(4, 8, 4, stride=2, padding=1, groups=2)), (4, 9),
    ),
    "weight-normed sound": (lambda: parametrizations.weight_norm(nn.Conv1d(5, 8, 3, dilation=2)), (5, 16)),
    "weight-normed volume": (lambda: nn.utils.weight_norm(nn.Conv3d(5, 8, 3, padding=1)), (5, 4, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_OF_IMAGES)
def test_so_it_is_for_linear_layers_transposed_ones_sound_and_volumes(name: str) -> None:
    torch.manual_seed(0)
    build, shape = NOT_OF_IMAGES[name]
    network = nn.Sequential(build(), nn.ReLU()).eval()
    shapes = computed_weights(network, Inputs.of(torch.randn(2, *shape)))
    plain = copy_network(network)
    replace_computed(plain, shapes)
    assert list(shapes) == ["0"]
    assert set(dict(plain[0].named_parameters())) <= {"weight", "bias"}
    inputs = torch.randn(3, *shape)
    assert torch.allclose(plain(inputs), network(inputs), rtol=1e-4, atol=1e-6)


def test_outputs_of_a_weight_normed_linear_layer_are_removed() -> None:
    torch.manual_seed(0)
    network = network_with(nn.Conv2d(3, 8, 3)).eval()
    network[5] = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 10)), nn.ReLU(), nn.Linear(10, 4))
    groups, kept = ChannelGroups(network, IMAGES), torch.tensor([0, 3, 4, 9])
    assert {site.name: site.channels for site in groups.sites} == {"0": 8, "2": 6, "5.0": 10}
    small = copy_network(network)
    groups.narrow_network(small, {"5.0": kept})
    features = network[:5](IMAGES)
    hidden = F.relu(features @ network[5][0].weight[kept].T + network[5][0].bias[kept])
    expected = hidden @ network[5][2].weight[:, kept].T + network[5][2].bias
    assert torch.allclose(small(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [OwnForward, GatedByInput, nn.Conv2d])
def test_other_layers_stay_as_they_are(kind: type[nn.Conv2d]) -> None:
    network = network_with(kind(3, 8, 3)).eval()
    assert computed_weights(network, Inputs.of(IMAGES)) == {}


@pytest.mark.parametrize(
    "frozen", [[], ["bias"], ["parametrizations.weight.original0", "parametrizations.weight.original1"]]
)
def test_what_was_frozen_stays_so(frozen: list[str]) -> None:
    network = network_with(parametrizations.weight_norm(nn.Conv2d(3, 8, 3)))
    for name, parameter in network[0].named_parameters():
        parameter.requires_grad_(name not in frozen)
    replace_computed(network, computed_weights(network, Inputs.of(IMAGES)))
    layer: Any = network[0]
    assert layer.training
    assert layer.bias.requires_grad == ("bias" not in frozen)
    assert layer.weight.requires_grad == ("parametrizations.weight.original0" not in frozen)


def test_filters_and_inputs_of_standardised_layers_are_removed() -> None:
    """The weight of what is left is that of the dense network, not one standardised over fewer inputs."""
    torch.manual_seed(0)
    network = nn.Sequential(
        StandardisedConv(3, 8, 3), nn.ReLU(), StandardisedConv(8, 6, 3), nn.Flatten(), nn.Linear(150, 4)
    ).eval()  # fmt: skip
    groups = ChannelGroups(network, IMAGES)
    assert {site.name: site.channels for site in groups.sites} == {"0": 8, "2": 6}
    small, kept = copy_network(network), torch.tensor([1, 2, 5])
    groups.narrow_network(small, {"0": kept})
    standard = [(w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
                for w in (network[0].weight, network[2].weight)]  # fmt: skip
    assert torch.allclose(small[0].weight, standard[0][kept], atol=1e-5)
    assert torch.allclose(small[2].weight, standard[1][:, kept], atol=1e-5)


class LimitedConv(StandardisedConv):
    """Limits what it takes in, as quantisation of activations does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-6, 6))


class MaskedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1:] = 0
        return F.conv2d(x, self.weight * mask, self.bias)


class BinaryConv(nn.Conv2d):
    """Weights of two values, trained through as if they were those behind them."""

    def forward(self, x: Tensor) -> Tensor:
        binary = self.weight.sign() * self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, self.weight + (binary - self.weight).detach(), self.bias)


class NoisyConv(nn.Conv2d):
    """Noise on the weight in training."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(self.weight) if self.training else torch.zeros_like(self.weight)
        return F.conv2d(x, self.weight * (1 + noise), self.bias)


class RoundedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        step = 1 / 64
        return F.conv2d(x, self.weight + ((self.weight / step).round() * step - self.weight).detach(), self.bias)


@pytest.mark.parametrize("kind", [LimitedConv, MaskedConv, BinaryConv, NoisyConv, RoundedConv])
def test_layers_that_training_would_make_others_are_no_plain_ones(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), kind(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    assert computed_weights(network, Inputs.of(IMAGES)) == {}


class ReachesIn(nn.Module):
    """Its code reads an attribute of the layer that a plain one lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = StandardisedConv(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.conv.temperature = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.conv(x) / self.conv.temperature))


def test_a_layer_whose_attributes_are_read_stays() -> None:
    assert computed_weights(ReachesIn(), Inputs.of(IMAGES)) == {}


class TemporalBlock(nn.Module):
    """Its convolutions are attributes and stand in a container as well, as in the published TCN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.weight_norm(nn.Conv1d(3, 8, 3, padding=2, dilation=2))
        self.conv2 = parametrizations.weight_norm(nn.Conv1d(8, 6, 3, padding=2, dilation=2))
        self.net = nn.Sequential(self.conv1, nn.ReLU(), self.conv2, nn.ReLU())
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.net(x)[:, :, -1])


@pytest.mark.parametrize("method", ["l1", "resrep"])
def test_a_layer_of_two_names_gives_way_under_both(method: str) -> None:
    torch.manual_seed(0)
    signals = torch.randn(2, 3, 12)
    compressor = create(method, TemporalBlock().eval(), signals)
    assert [(site.name, site.channels) for site in compressor.sites] == [("conv1", 8), ("conv2", 6)]
    allocation = compressor.allocation([3, 2])
    small = compressor.compress(allocation)
    small = compressor.tuning(allocation, small, steps=0, lr=0.1).finish(small)
    assert small.conv1 is small.net[0]
    assert small.conv2 is small.net[2]
    assert (small.conv1.out_channels, small.conv2.out_channels) == (5, 4)
    assert small(signals).shape == (2, 5)
