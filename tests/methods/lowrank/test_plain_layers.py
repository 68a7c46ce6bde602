"""Which layers are taken apart, which stay dense, and the reasons that are given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from methods.base import Allocation, Compressor, example_input
from methods.lowrank.factored_layer import FactoredLayer
from methods.moments import layer_inputs
from methods.registry import create
from methods.testing.small_networks import random_batches
from models.errors import UserError

SHAPE = (8, 6, 6)


class Scaled(nn.Conv2d):
    """A convolution with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OnlyNamed(nn.Conv2d):
    """A convolution by another name."""


class Body(nn.Module):
    """A layer to try, between two plain ones."""

    def __init__(self, layer: nn.Module, outputs: int = 8) -> None:
        super().__init__()
        self.before, self.layer, self.head = nn.Conv2d(8, 8, 3), layer, nn.Linear(outputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run_layer(self.before(x)).mean((2, 3)))

    def run_layer(self, x: Tensor) -> Tensor:
        return self.layer(x)


class ReadsWeight(Body):
    def run_layer(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.layer.weight, self.layer.bias)


class NamesItsInput(Body):
    def run_layer(self, x: Tensor) -> Tensor:
        return self.layer(input=x)


class OneByOne(nn.Module):
    """Inputs go through the layers one by one, without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(self.before(image).mean((1, 2))) for image in x])


class Tied(Body):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1))
        self.twin = nn.Conv2d(8, 8, 3, padding=1)
        self.twin.weight = self.layer.weight

    def run_layer(self, x: Tensor) -> Tensor:
        return self.twin(torch.relu(self.layer(x)))


class NeverCalled(Body):
    def run_layer(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.training else x


class BareParameter(Body):
    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.kernel = nn.Parameter(torch.randn(8, 8, 1, 1))

    def run_layer(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel)


def _bind(network: nn.Module, method: str = "tucker") -> Compressor:
    return create(method, network.eval(), example_input(SHAPE))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("method", ["svd", "tucker"])
@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3), OnlyNamed(8, 8, 3), nn.ConvTranspose2d(8, 8, 3, 2)])
def test_plain_layers_are_sites(layer: nn.Module, method: str) -> None:
    compressor = _bind(Body(layer), method)
    assert {"before", "layer"} <= {site.name for site in compressor.sites}
    small = compressor.compress(compressor.allocation([1] * len(compressor.sites)))
    assert isinstance(small.layer, FactoredLayer)
    assert small(example_input(SHAPE)).shape == (len(example_input(SHAPE)), 5)


def test_a_layer_may_be_given_its_input_by_name() -> None:
    assert "layer" in {site.name for site in _bind(NamesItsInput(nn.Conv2d(8, 8, 3))).sites}


def test_layers_may_be_called_without_a_batch() -> None:
    compressor = _bind(OneByOne())
    compressor.calibrate(random_batches(2, 3, shape=SHAPE, classes=5))
    assert {site.name for site in compressor.sites} == {"before", "head"}
    small = compressor.compress(compressor.allocation([1, 1]))
    assert small(example_input(SHAPE)).shape == (len(example_input(SHAPE)), 5)


@pytest.mark.parametrize(
    ("network", "name", "reason"),
    [
        (Body(nn.Conv2d(8, 8, 3, groups=2)), "layer", "it works in groups"),
        (Body(nn.Conv2d(8, 8, 3, groups=8)), "layer", "it works in groups"),
        (Body(nn.ConvTranspose2d(8, 8, 2, groups=4)), "layer", "it works in groups"),
        (Body(Scaled(8, 8, 3)), "layer", "its weight or its forward pass is not that of a plain layer"),
        (Body(parametrizations.weight_norm(Scaled(8, 8, 3))), "layer", "not that of a plain layer"),
        (ReadsWeight(nn.Conv2d(8, 8, 3)), "layer", "the network's code needs the layer itself"),
        (Tied(), "layer", "shares"),
        (Tied(), "twin", "shares"),
        (NeverCalled(nn.Conv2d(8, 8, 3)), "layer", "not called in evaluation"),
        (BareParameter(), "kernel", "it is a bare parameter, and no layer's"),
        (Body(nn.Conv2d(8, 1, 1), 1), "layer", "no ranks make it cheaper"),
    ],
)
def test_other_layers_stay_dense_and_are_named(network: nn.Module, name: str, reason: str) -> None:
    compressor = _bind(network)
    sites = {site.name for site in compressor.sites}  # the ladders add reasons
    assert name not in sites
    assert "before" in sites
    assert reason in compressor.skipped[name]


def test_transposed_layers_that_read_too_much_to_be_measured_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_inputs, "_WIDEST", 7)
    compressor = _bind(Body(nn.ConvTranspose2d(8, 8, 2)))
    assert compressor.skipped["layer"] == "it reads too many inputs for their second moment"
    assert "before" in {site.name for site in compressor.sites}


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weights_that_are_computed_are_taken_as_they_are(norm: Callable[[nn.Module], nn.Module]) -> None:
    network = Body(norm(nn.Conv2d(8, 8, 3))).eval()
    compressor = _bind(network)
    site = next(site for site in compressor.sites if site.name == "layer")
    x = example_input(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(compressor.compress(Allocation({}))(x), network(x))
        small = compressor.compress(Allocation({site.name: site.settings[1]}))
        assert small(x).shape == network(x).shape
    assert isinstance(small.layer, FactoredLayer)


def _encoder(**options: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(36, 4, 72, batch_first=True)
    if options:
        layer.self_attn = nn.MultiheadAttention(36, 4, batch_first=True, **options)
    return nn.Sequential(nn.Flatten(2), layer, nn.Flatten(), nn.Linear(288, 5))


def test_of_an_encoder_all_layers_are_sites() -> None:
    """In evaluation without gradients it would pass all weights to one fused operator."""
    network = _encoder().eval()
    compressor = _bind(network)
    attention = ("query", "key", "value", "out_proj")
    expected = {*(f"1.self_attn.{name}" for name in attention), "1.linear1", "1.linear2", "3"}
    assert {site.name for site in compressor.sites} == expected
    x = example_input(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(compressor.compress(Allocation({}))(x), network(x), rtol=1e-4, atol=1e-5)
        small = compressor.compress(compressor.allocation([1] * len(compressor.sites)))
        assert small(x).shape == (len(x), 5)


def test_layers_whose_weights_a_fused_operator_takes_stay_dense() -> None:
    """Attention over an added zero stays as it is, and with it the fused operator."""
    compressor = _bind(_encoder(add_zero_attn=True))
    assert {site.name for site in compressor.sites} == {"3"}
    for name in ("1.linear1", "1.linear2", "1.self_attn.out_proj"):
        assert "the network's code needs the layer itself" in compressor.skipped[name]


def test_weights_that_are_not_finite_are_refused() -> None:
    network = Body(nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        network.layer.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        _bind(network)
