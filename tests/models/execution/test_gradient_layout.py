"""Networks whose backward pass needs contiguous gradients stay contiguous."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.execution.memory_layout import choose_memory_format
from models.user.given_networks import give_network, given_network


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.norm(self.conv(images)).relu())

    def classify(self, maps: Tensor) -> Tensor:
        output: Tensor = self.head(maps.square().sum((2, 3)))
        return output


def _view(gradient: Tensor) -> Tensor:
    return gradient.view(-1).view(gradient.shape)


class TensorHook(Net):
    def classify(self, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(_view)
        return super().classify(maps)


class ModuleHook(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm.register_full_backward_hook(lambda _module, gradients, _outputs: (_view(gradients[0]),))


class Viewed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, maps: Tensor) -> Tensor:
        return maps.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _view(gradient)


class OwnFunction(Net):
    def classify(self, maps: Tensor) -> Tensor:
        viewed: Tensor = Viewed.apply(maps)  # type: ignore[no-untyped-call]
        return super().classify(viewed)


class NoBackward(Net):
    """Its backward pass fails in either order, which says nothing about them."""

    def classify(self, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(lambda gradient: gradient.view(-1, 10_007))
        return super().classify(maps)


class InPlace(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mul_(2))


class InputGradient(Net):
    def forward(self, images: Tensor) -> Tensor:
        images = images.requires_grad_()
        output = super().forward(images)
        if self.training:
            (gradient,) = torch.autograd.grad(output.sum(), images, create_graph=True)
            output = output + gradient.mean()
        return output


def _images() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [TensorHook, ModuleHook, OwnFunction])
def test_contiguous_where_the_backward_pass_needs_it(kind: type[Net]) -> None:
    assert choose_memory_format(kind().eval(), _images()) == torch.contiguous_format


@pytest.mark.parametrize("kind", [Net, NoBackward, InPlace, InputGradient])
def test_channels_last_otherwise(kind: type[Net]) -> None:
    images = _images()
    assert choose_memory_format(kind().eval(), images) == torch.channels_last
    assert torch.equal(images, _images())
    assert not images.requires_grad


def test_gradients_of_the_input_may_be_taken_in_training() -> None:
    assert isinstance(given_network(give_network(InputGradient(), (3, 6, 6))), InputGradient)
