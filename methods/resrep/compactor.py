"""Compactors: the 1×1 convolutions that ResRep forgets with, and the algebra that folds them away again.

A compactor Q (D×D, the identity at first) stands after the norm that follows a convolution, or after a bare
convolution. Once rows of Q are zero, convolution W, norm (γ, β, μ, σ) and Q are one convolution:

    W' = Q (γ/σ · W)        b' = Q (β + γ/σ · (b − μ))

Others than this convolution may write to a site's channels: a depthwise convolution or a further norm on the way
(its bias, or β − μγ/σ, would bring a silent channel back to life), the norms of the other branches of a residual
stream. These *followers* are scaled per channel by its row's norm, capped at one: nothing happens to them at the
start, a row at zero is silent all the way, and the row's gradient speaks for all who write its channel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.graph.trace import evaluating
from models.execution.forward_hooks import forward_hooks

BatchNorm = nn.modules.batchnorm._BatchNorm
ZERO = 1e-5  # a row with a smaller norm is gone (the paper's threshold)


class Compactor(nn.Module):
    """Q, a 1×1 convolution without bias; rows whose `alive` is 0 have been forgotten for good."""

    weight: nn.Parameter
    alive: Tensor

    def __init__(self, site: str, like: Tensor) -> None:
        """`like`: the (D, ...) weight whose outputs it follows; gives width, device and dtype."""
        super().__init__()
        self.site = site
        self.weight = nn.Parameter(torch.eye(len(like), device=like.device, dtype=like.dtype))
        self.register_buffer("alive", torch.ones(len(like), 1, device=like.device, dtype=like.dtype))

    def rows(self) -> Tensor:
        """Q, (D, D), forgotten rows at exactly zero."""
        return self.weight * self.alive

    def norms(self) -> Tensor:
        """The Euclidean norm of every row, (D,)."""
        return torch.linalg.vector_norm(self.rows(), dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.rows()[:, :, None, None])


class Compacted(nn.Module):
    """A norm or a convolution, and the compactor after it."""

    def __init__(self, inner: nn.Module, compactor: Compactor) -> None:
        super().__init__()
        self.inner = inner
        self.compactor = compactor

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.compactor(self.inner(inputs))
        return outputs


class Follower(nn.Module):
    """A further writer of a compactor's channels, which works on them one by one; silent where rows are zero."""

    index: Tensor
    channel: Tensor

    def __init__(self, inner: nn.Module, compactor: Compactor, index: Tensor, channel: Tensor) -> None:
        """Channel `index[i]` of `inner` is channel `channel[i]` of the compactor; all others are left alone."""
        super().__init__()
        self.inner = inner
        self._source = (compactor,)  # in a tuple: it is the other module's child, not this one's
        device = compactor.weight.device
        self.register_buffer("index", index.to(device), persistent=False)
        self.register_buffer("channel", channel.to(device), persistent=False)

    def gate(self, width: int) -> Tensor:
        """What each of `width` output channels is multiplied by."""
        norms = self._source[0].norms()
        return torch.ones(width, device=norms.device, dtype=norms.dtype).index_copy(
            0, self.index, norms.clamp(max=1)[self.channel]
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        return outputs * self.gate(outputs.shape[1])[:, None, None]


def wrap_module(network: nn.Module, name: str, wrapper: Callable[[nn.Module], nn.Module]) -> None:
    """Put `wrapper(module)` in the place of the module called `name`, in the same mode."""
    owner, _, leaf = name.rpartition(".")
    parent = network.get_submodule(owner)
    module = parent.get_submodule(leaf)
    wrapped = wrapper(module)
    wrapped.training = module.training
    setattr(parent, leaf, wrapped)


def find_compactors(network: nn.Module) -> dict[str, Compactor]:
    """The compactors of `network` by site."""
    return {module.site: module for module in network.modules() if isinstance(module, Compactor)}


def next_norms(network: nn.Module, example: Tensor) -> dict[str, str]:
    """For every convolution called once: the batch norm, if any, whose input is exactly its output."""
    made: dict[int, str] = {}  # id of an output -> convolution; `held` keeps the ids from being used again
    held: list[Tensor] = []
    readers: dict[str, list[str]] = {}
    calls: dict[str, int] = {}

    def produced(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            held.append(output)
            made[id(output)] = name

        return hook

    def consumed(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if inputs and id(inputs[0]) in made:
                readers.setdefault(made[id(inputs[0])], []).append(name)

        return hook

    modules = list(network.named_modules())
    norms = [(name, module) for name, module in modules if isinstance(module, BatchNorm)]
    before = [(module, consumed(name)) for name, module in norms if module.running_mean is not None]
    after = [(module, produced(name)) for name, module in modules if isinstance(module, nn.Conv2d)]
    with forward_hooks(before=before, after=after), evaluating(network, example):
        network(example[:1])
    return {conv: names[0] for conv, names in readers.items() if calls[conv] == calls[names[0]] == len(names) == 1}


def _affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale γ/σ and shift β − μγ/σ of a norm in evaluation, both (D,), in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: BatchNorm | None, rows: Tensor) -> None:
    """Move `norm` and the compactor `rows` (D, D) into `conv`, in place; `norm` itself is left as it was.

    The convolution gets a bias where it had one or a norm stood behind it.
    """
    weight, q = conv.weight.detach().double(), rows.detach().double()
    shift = torch.zeros_like(weight[:, 0, 0, 0]) if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        scale, offset = _affine(norm)
        weight, shift = weight * scale[:, None, None, None], shift * scale + offset
    conv.weight.copy_((q @ weight.flatten(1)).view_as(weight))
    if norm is not None or conv.bias is not None:
        conv.bias = nn.Parameter((q @ shift).to(conv.weight.dtype))


@torch.no_grad()
def restore_norm(conv: nn.Conv2d, norm: BatchNorm, biased: bool) -> None:
    """Hand the bias of a folded convolution back to its norm, so that a site that lost nothing looks as it came.

    The norm becomes x ↦ x + b': unit scale, mean −b'. `biased` says whether the convolution had a bias of its own.
    """
    assert conv.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(-conv.bias)
    norm.running_var.fill_(1 - norm.eps)
    if norm.weight is not None:
        norm.weight.fill_(1)
    if norm.bias is not None:
        norm.bias.zero_()
    conv.bias = nn.Parameter(torch.zeros_like(conv.bias)) if biased else None


@torch.no_grad()
def fold_follower(follower: Follower) -> nn.Module:
    """The module inside, its outputs scaled by the gate (and those within, if any) once and for all."""
    inner = fold_follower(follower.inner) if isinstance(follower.inner, Follower) else follower.inner
    weight = inner.weight
    assert isinstance(weight, Tensor)
    gate = follower.gate(len(weight)).to(weight.dtype)
    weight.mul_(gate.view(-1, *[1] * (weight.dim() - 1)))
    if isinstance(inner.bias, Tensor):
        inner.bias.mul_(gate)
    return inner
