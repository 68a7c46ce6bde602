"""Folding against the modules it replaces, run one after the other."""

import pytest
import torch
from torch import Tensor, nn

from methods.resrep.compactor import (
    Compacted,
    Compactor,
    Follower,
    fold_convolution,
    fold_follower,
    next_norms,
    restore_norm,
    wrap_module,
)
from models.execution.inputs import Inputs

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "bias": {"kernel_size": 3, "bias": True, "padding": 1},
    "strided": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2)},
    "dilated": {"kernel_size": 3, "dilation": 2, "bias": True},
    "pointwise": {"kernel_size": 1},
}


def trained_norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    """A norm whose every number matters, in evaluation."""
    norm = nn.BatchNorm2d(channels, affine=affine).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 2)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def mixing_compactor(channels: int, gone: list[int]) -> Compactor:
    compactor = Compactor("site", channels, torch.empty(0))
    nn.init.normal_(compactor.weight)
    compactor.alive[gone] = 0
    return compactor


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("norm", [None, True, False], ids=["bare", "affine", "unscaled"])
@torch.no_grad()
def test_folded_convolution_equals_the_three_modules(kind: str, norm: bool | None) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **{"bias": False, **CONVOLUTIONS[kind]})
    after = None if norm is None else trained_norm(6, affine=norm)
    compactor, inputs = mixing_compactor(6, [1, 4]), torch.randn(2, 4, 9, 11)
    expected = compactor(conv(inputs) if after is None else after(conv(inputs)))
    fold_convolution(conv, after, compactor.current_rows())
    torch.testing.assert_close(conv(inputs), expected, atol=1e-5, rtol=1e-5)
    assert (conv(inputs)[:, [1, 4]] == 0).all()
    assert (conv.bias is None) == (after is None and not CONVOLUTIONS[kind].get("bias"))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_restored_norm_takes_the_bias_back(bias: bool, affine: bool) -> None:
    torch.manual_seed(1)
    conv, norm, inputs = nn.Conv2d(3, 5, 3, bias=bias), trained_norm(5, affine), torch.randn(2, 3, 6, 6)
    shapes = {name: tensor.shape for name, tensor in (conv.state_dict() | norm.state_dict()).items()}
    compactor = mixing_compactor(5, [])
    expected = compactor(norm(conv(inputs)))
    fold_convolution(conv, norm, compactor.current_rows())
    restore_norm(conv, norm, bias)
    torch.testing.assert_close(norm(conv(inputs)), expected, atol=1e-5, rtol=1e-5)
    assert {name: tensor.shape for name, tensor in (conv.state_dict() | norm.state_dict()).items()} == shapes


@torch.no_grad()
def test_followers_of_one_module_fold_together() -> None:
    torch.manual_seed(2)
    first, second = mixing_compactor(2, [1]), mixing_compactor(3, [0])
    first.weight *= 0.2  # below one, so that the gate scales
    norm, inputs = trained_norm(6), torch.randn(4, 6, 3, 3)
    inner = Follower(norm, first, torch.tensor([4, 0]), torch.tensor([0, 1]))
    outer = Follower(inner, second, torch.tensor([1, 2, 5]), torch.tensor([0, 1, 2]))
    plain, expected = norm(inputs), outer(inputs)
    gates = torch.ones(6)
    gates[4] = min(1, float(first.weight[0].norm()))
    gates[[0, 1]] = 0  # rows 1 of the first and 0 of the second are gone
    gates[2], gates[5] = (min(1, float(second.weight[row].norm())) for row in (1, 2))
    torch.testing.assert_close(expected, plain * gates[:, None, None])
    assert fold_follower(outer) is norm
    torch.testing.assert_close(norm(inputs), expected)


@torch.no_grad()
def test_depthwise_follower_is_silent_where_its_row_is_gone() -> None:
    torch.manual_seed(3)
    conv, inputs = nn.Conv2d(3, 3, 3, groups=3, padding=1), torch.randn(1, 3, 5, 5)
    follower = Follower(conv, mixing_compactor(3, [2]), torch.arange(3), torch.arange(3))
    expected = follower(inputs)
    assert (expected[:, 2] == 0).all()
    assert (fold_follower(follower)(inputs) - expected).abs().max() < 1e-6


def test_gradient_reaches_a_row_through_its_gate_and_stops_at_zero() -> None:
    compactor = mixing_compactor(2, [1])
    compactor.weight.data *= 0.1 / compactor.weight.data.norm()
    norm = trained_norm(2)
    Follower(norm, compactor, torch.arange(2), torch.arange(2))(torch.randn(2, 2, 2, 2)).sum().backward()
    assert compactor.weight.grad is not None
    assert compactor.weight.grad[0].abs().sum() > 0
    assert (compactor.weight.grad[1] == 0).all()  # not NaN, although the norm has no derivative there


class Wired(nn.Module):
    """Norms behind a convolution directly, behind a concatenation, an activation, and a convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.direct, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.joined, self.norm_of_both = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(4)
        self.rectified, self.late_norm = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
        self.twice, self.norm_twice = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.unmeasured, self.batch_only = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.direct(x))
        x = self.norm_of_both(torch.cat([x, self.joined(x)], 1))
        x = self.late_norm(self.rectified(x).relu())
        x = self.norm_twice(self.twice(self.norm_twice(self.twice(x))))
        return self.batch_only(self.unmeasured(x))


def test_only_a_norm_that_reads_the_convolution_itself_is_found() -> None:
    network = Wired()
    assert next_norms(network, Inputs.of(torch.randn(2, 2, 4, 4))) == {"direct": "norm"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_wrapping_keeps_the_mode_and_the_function() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    network[1][0].eval()
    inputs = torch.randn(2, 3, 2, 2)
    expected = network(inputs)
    wrap_module(network, "1.0", lambda norm: Compacted(norm, Compactor("0", len(network[0].weight), network[0].weight)))
    assert [network[1][0].training, network[1][0].inner.training, network[1].training] == [False, False, True]
    torch.testing.assert_close(network(inputs), expected)
