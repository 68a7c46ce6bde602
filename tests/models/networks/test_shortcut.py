"""The option-A shortcut: its arithmetic, and its two sides narrowed apart."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.shortcut import PadShortcut


def _option_a(x: Tensor, new_channels: int) -> Tensor:
    """As the checkpoints' own network writes it."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new_channels // 2, new_channels // 2))


def test_fresh_is_option_a() -> None:
    x = torch.randn(2, 16, 9, 8)
    assert torch.equal(PadShortcut(16, 32, 2)(x), _option_a(x, 16))


def test_cannot_narrow() -> None:
    with pytest.raises(ValueError, match="cannot narrow 8 channels to 4"):
        PadShortcut(8, 4, 1)


def test_each_side_is_kept_on_its_own() -> None:
    x = torch.randn(2, 4, 6, 6)
    dense = _option_a(x, 4)
    shortcut = PadShortcut(4, 8, 2)
    shortcut.keep_out(torch.tensor([0, 2, 4, 5]))
    assert torch.equal(shortcut(x), dense[:, [0, 2, 4, 5]])
    shortcut.keep_in(torch.tensor([0, 3]))  # channel 2, which output 4 showed, is gone
    expected = dense[:, [0, 2, 4, 5]].clone()
    expected[:, 2] = 0
    assert torch.equal(shortcut(x[:, [0, 3]]), expected)
    assert (shortcut.in_channels, shortcut.out_channels) == (2, 4)
    shortcut.keep_out(torch.tensor([2]))  # nothing but zeros is left
    assert torch.equal(shortcut(x[:, [0, 3]]), torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize("stride", [1, 2])
def test_as_a_convolution_it_gives_the_same(stride: int) -> None:
    x = torch.randn(2, 6, 9, 8)
    shortcut = PadShortcut(6, 12, stride)
    assert torch.equal(shortcut.as_convolution()(x), shortcut(x))
    shortcut.keep_out(torch.tensor([1, 3, 4, 7, 11]))
    shortcut.keep_in(torch.tensor([0, 4, 5]))
    assert torch.equal(shortcut.as_convolution()(x[:, [0, 4, 5]]), shortcut(x[:, [0, 4, 5]]))


def test_order_of_the_two_sides_does_not_matter() -> None:
    outs, ins = torch.tensor([1, 3, 4, 7, 9]), torch.tensor([0, 2, 5])
    one, two = PadShortcut(6, 12, 1), PadShortcut(6, 12, 1)
    one.keep_out(outs)
    one.keep_in(ins)
    two.keep_in(ins)
    two.keep_out(outs)
    assert torch.equal(one.source, two.source)


def test_nothing_stored_copied_whole() -> None:
    shortcut = PadShortcut(4, 8, 2)
    shortcut.keep_in(torch.tensor([1, 2]))
    assert not shortcut.state_dict()
    twin = copy.deepcopy(shortcut)
    twin.keep_out(torch.tensor([3]))
    assert shortcut.out_channels == len(shortcut.source) == 8
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(twin(x), shortcut(x)[:, [3]])


def test_gradient_reaches_kept_inputs_only() -> None:
    shortcut = PadShortcut(4, 8, 1)
    shortcut.keep_out(torch.tensor([0, 3]))  # zeros, and input 1
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    shortcut(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum((0, 2, 3)).tolist() == [0, 4, 0, 0]


def test_exports() -> None:
    shortcut = PadShortcut(4, 8, 2).eval()
    shortcut.keep_in(torch.tensor([0, 2, 3]))
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(shortcut, (x,))
    assert torch.equal(program.module()(x), shortcut(x))
