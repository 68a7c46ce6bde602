"""Optimal brain surgeon on channels: moments against unfolded inputs, repair and removal against least squares."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.base import Allocation
from methods.filters import obs
from methods.filters.repair import channel_columns, repair_layer
from methods.moments import layer_inputs
from methods.moments.layer_inputs import measure_moments, sample_patches
from methods.moments.output_gradients import DAMPING
from methods.registry import create
from models.errors import UserError
from models.tasks.classification import CLASSIFICATION

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padded, strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "not square": {"kernel_size": (1, 3), "padding": (0, 1)},
    "dilated, same": {"kernel_size": 3, "dilation": 2, "padding": "same"},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "reflecting": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "pointwise": {"kernel_size": 1, "bias": False},
    "signal": {"kernel_size": 5, "padding": 2, "stride": 2, "padding_mode": "circular"},
    "clip": {"kernel_size": (1, 3, 2), "stride": (1, 1, 2), "groups": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_patch_gives_an_output_of_the_convolution(name: str) -> None:
    torch.manual_seed(0)
    dims = {"signal": 1, "clip": 3}.get(name, 2)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 6, **CONVOLUTIONS[name])
    inputs = torch.randn(2, 4, *(7, 9, 5)[:dims])
    outputs = conv(inputs)
    patches = sample_patches(conv, inputs, 50, torch.Generator().manual_seed(1))  # (groups, 50, d)
    weights = conv.weight.flatten(1).unflatten(0, (conv.groups, -1))
    computed = torch.cat(list(patches @ weights.mT), dim=1)  # (50, 6)
    if conv.bias is not None:
        computed = computed + conv.bias
    expected = outputs.movedim(1, -1).flatten(0, -2)
    assert torch.cdist(computed.double(), expected.double()).min(1).values.max() < 1e-4


def _regression_error(conv: nn.Module, inputs: Tensor, channels: Tensor) -> Tensor:
    """Least mean square error of the outputs that the kept input channels can reach, per output's variance."""
    x = functional.unfold(inputs, conv.kernel_size, padding=conv.padding).mT.flatten(0, 1).double()
    y = x @ conv.weight.detach().flatten(1).double().T
    x = x.unflatten(1, (conv.in_channels, -1))[:, channels].flatten(1)
    x, y = x - x.mean(0), y - y.mean(0)
    residual = y - x @ torch.linalg.lstsq(x, y).solution
    return residual.square().sum() / y.square().sum()


class _Pair(nn.Module):
    """A convolution whose six channels, copies of three apart from noise, are read by a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(functional.relu(self.first(inputs)))
        return self.head(functional.relu(hidden).mean((2, 3)))


@pytest.fixture
def pair() -> _Pair:
    torch.manual_seed(3)
    return _Pair().eval()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(24, 3, 12, 12, generator=generator), torch.zeros(24, dtype=torch.long)) for _ in range(2)]


def _site_read_by_second(compressor: obs.SurgeonPruning) -> str:
    return next(site.name for site in compressor.sites if "second" in site.layers)


def test_repaired_outputs_come_as_near_as_least_squares_allows(
    pair: _Pair, batches: list[tuple[Tensor, Tensor]]
) -> None:
    inputs = torch.cat([functional.relu(pair.first(x)) for x, _ in batches]).detach()
    stays = torch.tensor([True, False, True, True, False, True])
    small = nn.Conv2d(4, 5, 3, padding=1)
    small.load_state_dict({"weight": pair.second.weight[:, stays], "bias": pair.second.bias})
    seen = measure_moments(pair, ["second"], batches, CLASSIFICATION)["second"]
    repair_layer(small, pair.second, seen, stays, torch.ones(5, dtype=torch.bool))
    wanted, got = pair.second(inputs).detach(), small(inputs[:, stays]).detach()
    centred = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
    error = (got - wanted).square().sum() / centred
    least = _regression_error(pair.second, inputs, stays)
    assert least <= error < 1.1 * least
    untouched = functional.conv2d(inputs[:, stays], pair.second.weight[:, stays], pair.second.bias, padding=1)
    assert error < 0.7 * (untouched - wanted).square().sum() / centred


@pytest.mark.parametrize(("dims", "groups"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_a_transposed_convolution_is_repaired_as_well_as_least_squares_can(dims: int, groups: int) -> None:
    """Where its kernel is as long as its stride, outputs of every tap are a linear layer's."""
    torch.manual_seed(1)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    network = nn.Sequential(kind(6, 4, 2, 2, groups=groups))
    inputs = torch.randn(40, 3, *[5] * dims) @ torch.eye(5) + 1
    inputs = torch.cat([inputs, inputs + 0.3 * torch.randn_like(inputs)], 1)  # three channels, and noisy copies
    stays = torch.tensor([True, False, True, False, True, True])
    small = kind(4, 4, 2, 2, groups=groups)
    seen = measure_moments(network, ["0"], [(inputs, None)], CLASSIFICATION)["0"]
    small.load_state_dict({"weight": network[0].weight[stays], "bias": network[0].bias})
    repair_layer(small, network[0], seen, stays, torch.ones(4, dtype=torch.bool))
    wanted = network(inputs).detach().movedim(1, -1)
    got = small(inputs[:, stays]).detach().movedim(1, -1)
    regressors = inputs.movedim(1, -1).flatten(0, -2).double()
    left = error = 0.0
    for tap in itertools.product(range(2), repeat=dims):
        place = (slice(None), *(slice(start, None, 2) for start in tap))
        y = wanted[place].flatten(0, -2).double()
        for block in range(groups):
            members = [c for c in range(6) if stays[c] and c // (6 // groups) == block]
            outputs = y[:, block * 4 // groups : (block + 1) * 4 // groups]
            x = regressors[:, members]
            x, centred = x - x.mean(0), outputs - outputs.mean(0)
            left += float((centred - x @ torch.linalg.lstsq(x, centred).solution).square().sum())
        difference = (got - wanted)[place].flatten(0, -2).double()
        error += float((difference - difference.mean(0)).square().sum())
    assert left <= error < 1.05 * left
    assert abs(float((got - wanted).mean())) < 1e-3 * float(wanted.std())


def test_bias_takes_over_what_a_lost_constant_channel_gave(pair: _Pair, batches: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        pair.first.weight[1], pair.first.bias[1] = 0, 2.0
        pair.second = nn.Conv2d(6, 5, 3)  # at a padded border the channel would not be constant
    stays = torch.tensor([True, False, True, True, True, True])
    compressor = create("obs", pair, batches[0][0][:2])
    compressor.calibrate(batches)
    site = _site_read_by_second(compressor)
    assert compressor.channels.groups[0].name == site
    small = compressor.compress(Allocation({site: {"ratio": round(1 / 6, 6)}}))
    assert torch.equal(small.first.weight, pair.first.weight[stays])
    x = batches[0][0]
    assert torch.allclose(small(x), pair(x), atol=5e-3)


def test_first_channel_to_go_is_the_one_that_regression_misses_least(
    pair: _Pair, batches: list[tuple[Tensor, Tensor]]
) -> None:
    compressor = create("obs", pair, batches[0][0][:2])
    compressor.calibrate(batches)
    inputs = torch.cat([functional.relu(pair.first(x)) for x, _ in batches]).detach()
    everything = set(range(6))
    errors = {
        c: float(_regression_error(pair.second, inputs, torch.tensor(sorted(everything - {c})))) for c in everything
    }
    group = compressor.channels.groups[0]
    assert int(compressor.removal_levels(group).argmin()) == min(errors, key=errors.__getitem__)


def test_a_copy_of_another_channel_goes_for_nothing(pair: _Pair, batches: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        pair.first.weight[4], pair.first.bias[4] = pair.first.weight[2], pair.first.bias[2]
    compressor = create("obs", pair, batches[0][0][:2])
    compressor.calibrate(batches)
    site = _site_read_by_second(compressor)
    small = compressor.compress(Allocation({site: {"ratio": round(1 / 6, 6)}}))
    x = batches[1][0]
    assert torch.allclose(small(x), pair(x), atol=2e-3)
    assert not torch.allclose(
        create("l1", pair, x[:2]).compress(Allocation({site: {"ratio": round(1 / 6, 6)}}))(x), pair(x), atol=2e-3
    )


def test_greedy_order_is_near_the_best_subset(pair: _Pair, batches: list[tuple[Tensor, Tensor]]) -> None:
    compressor = create("obs", pair, batches[0][0][:2])
    compressor.calibrate(batches)
    inputs = torch.cat([functional.relu(pair.first(x)) for x, _ in batches]).detach()
    channels = compressor.removal_levels(compressor.channels.groups[0]).argsort(descending=True)[:3].sort().values
    subsets = [torch.tensor(subset) for subset in itertools.combinations(range(6), 3)]
    errors = sorted(float(_regression_error(pair.second, inputs, subset)) for subset in subsets)
    assert float(_regression_error(pair.second, inputs, channels)) <= errors[2]


@pytest.mark.parametrize("level", [0.0, 3.7, 1000.0])
def test_inputs_that_hardly_vary_are_repaired(pair: _Pair, level: float) -> None:
    """Rounding must not pass for covariance: the bias alone can stand in for constant channels."""
    pair.second = nn.Conv2d(6, 5, 3)  # at a padded border the channels would not be constant
    with torch.no_grad():
        pair.first.weight *= 1e-4
        pair.first.bias.copy_(level * torch.linspace(0.5, 1, 6))
    generator = torch.Generator().manual_seed(5)
    data = [(torch.randn(24, 3, 12, 12, generator=generator), torch.zeros(24, dtype=torch.long)) for _ in range(2)]
    compressor = create("obs", pair, data[0][0][:2])
    compressor.calibrate(data)
    small = compressor.compress(Allocation({_site_read_by_second(compressor): {"ratio": 0.5}}))
    wanted = pair(data[0][0])
    assert (small(data[0][0]) - wanted).abs().max() <= 1e-3 * (1 + wanted.abs().max())


def test_values_that_are_not_finite_are_refused(pair: _Pair, batches: list[tuple[Tensor, Tensor]]) -> None:
    batches[1][0][0, 0, 5] = math.inf
    compressor = create("obs", pair, batches[0][0][:2])
    with pytest.raises(UserError, match="not finite"):
        compressor.calibrate(batches)


def test_what_too_wide_a_layer_reads_goes_by_l1(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    monkeypatch.setattr(layer_inputs, "_WIDEST", 8 * 4 * 4 - 1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    inputs = torch.randn(4, 3, 6, 6)
    small = {}
    for method in ("obs", "l1"):
        compressor = create(method, network.eval(), inputs[:2])
        compressor.calibrate([(inputs, torch.zeros(4, dtype=torch.long))])
        small[method] = compressor.compress(compressor.allocation([4]))
    assert len(small["obs"][0].weight) == 4
    assert torch.equal(small["obs"](inputs), small["l1"](inputs))


def test_columns_of_a_grouped_convolution_lie_in_its_own_group() -> None:
    conv = nn.Conv2d(4, 4, (1, 2), groups=2)
    assert [(group, columns.tolist()) for group, columns in channel_columns([0, 1, 3], 4, conv)] == [
        (0, [0, 1]), (0, [2, 3]), (1, [2, 3]),
    ]  # fmt: skip


def test_without_calibration_it_says_so(pair: _Pair, batches: list[tuple[Tensor, Tensor]]) -> None:
    compressor = create("obs", pair, batches[0][0][:2])
    with pytest.raises(ValueError, match="calibrate"):
        compressor.compress(Allocation({_site_read_by_second(compressor): {"ratio": 0.5}}))


def test_without_bias_or_batch_norm_a_shift_of_the_outputs_counts_too(batches: list[tuple[Tensor, Tensor]]) -> None:
    """Least squares about zero: nothing else could take the mean of what was lost."""
    torch.manual_seed(3)
    network = _Pair().eval()
    network.second = nn.Conv2d(6, 5, 3, padding=1, bias=False)
    network.first.bias.data += torch.tensor(
        [0.0, 3.0, 0.0, 0.5, 2.0, 0.0]
    )  # what is lost has a mean, what stays varies
    stays = torch.tensor([True, False, True, True, False, True])
    small = nn.Conv2d(4, 5, 3, padding=1, bias=False)
    inputs = torch.cat([functional.relu(network.first(x)) for x, _ in batches]).detach()
    seen = measure_moments(network, ["second"], batches, CLASSIFICATION)["second"]
    repair_layer(small, network.second, seen, stays, torch.ones(5) > 0)
    x = functional.unfold(inputs, 3, padding=1).mT.flatten(0, 1).double()
    y = x @ network.second.weight.detach().flatten(1).double().T
    x = x.unflatten(1, (6, -1))[:, stays].flatten(1)
    least = (y - x @ torch.linalg.lstsq(x, y).solution).square().mean()
    error = (small(inputs[:, stays]) - network.second(inputs)).square().mean().detach()
    assert error < 1.1 * least


def test_damages_are_those_of_the_least_squares_fit(pair: _Pair, batches: list[tuple[Tensor, Tensor]]) -> None:
    """½ tr(G Δ Σ Δᵀ), with Δ of a regression on the channels that stay, for every level of the ladder."""
    compressor = create("obs", pair, batches[0][0][:2])
    compressor.calibrate(batches)
    site = next(site for site in compressor.sites if "second" in site.layers)
    sigma = compressor.moments["second"].covariance()[0]
    gradients = compressor.gradients["second"]
    metric = gradients + DAMPING * gradients.diagonal().mean() * torch.eye(5)
    weight = pair.second.weight.detach().double().flatten(1)
    gone_at = compressor.removal_levels(compressor.channels.groups[0])
    assert len(site.damages) == 6
    for level, damage in enumerate(site.damages):
        keep = (gone_at > level).repeat_interleave(9)
        change = weight.clone()
        change[:, keep] -= torch.linalg.lstsq(sigma[keep][:, keep], sigma[keep] @ weight.T).solution.T
        assert damage == pytest.approx(float((metric @ change @ sigma * change).sum()) / 2, rel=1e-6, abs=1e-12)
