"""Compactors, the pointwise convolutions whose rows ResRep drives to zero, and their folding into the network.

A compactor Q (D×D, initially the identity) stands after the norm that follows a convolution, or after a bare
convolution. Once rows of Q are zero, convolution W, norm (γ, β, μ, σ) and Q become one convolution:

    W' = Q (γ/σ · W)        b' = Q (β + γ/σ · (b − μ))

Both act on the convolution's outputs, so that the number of its dimensions does not matter, nor that it is transposed.

Other modules may write a site's channels as well: a depthwise convolution or a further norm behind the compactor
(whose bias, or β − μγ/σ, would make a silent channel nonzero again), and norms of other branches of a residual stream.
Each channel of these *followers* is scaled by the norm of its row, capped at one. Initially this changes nothing; a row
at zero silences all modules that write its channel, and its gradient collects all of their effects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import copy_network
from methods.graph.narrow import Conv, layer_dims, replace_module
from methods.graph.trace import evaluation_mode
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Inputs

BatchNorm = nn.modules.batchnorm._BatchNorm
ZERO = 1e-5  # a row with a smaller norm counts as zero (the paper's threshold)


class Compactor(nn.Module):
    """Q, a pointwise convolution without bias; rows whose `alive` is 0 are forgotten for good."""

    weight: nn.Parameter
    alive: Tensor

    def __init__(self, site: str, width: int, like: Tensor) -> None:
        """`width`: D; `like`: the weight of the convolution before it, for device and dtype."""
        super().__init__()
        self.site = site
        self.weight = nn.Parameter(torch.eye(width, device=like.device, dtype=like.dtype))
        self.register_buffer("alive", torch.ones(width, 1, device=like.device, dtype=like.dtype))

    def current_rows(self) -> Tensor:
        """Q, (D, D), forgotten rows at exactly zero."""
        return self.weight * self.alive

    def row_norms(self) -> Tensor:
        """The Euclidean norm of every row, (D,)."""
        return torch.linalg.vector_norm(self.current_rows(), dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.current_rows()
        convolve = (F.conv1d, F.conv2d, F.conv3d)[inputs.dim() - 3]
        return convolve(inputs, rows[(..., *[None] * (inputs.dim() - 2))])


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
    """A further module that writes a compactor's channels, one by one; scaled so that rows at zero are silent."""

    index: Tensor
    channel: Tensor

    def __init__(self, inner: nn.Module, compactor: Compactor, index: Tensor, channel: Tensor) -> None:
        """Channel `index[i]` of `inner` is channel `channel[i]` of the compactor; all others are not scaled."""
        super().__init__()
        self.inner = inner
        self._source = (compactor,)  # in a tuple, so that it is not registered as a child of this module
        device = compactor.weight.device
        self.register_buffer("index", index.to(device), persistent=False)
        self.register_buffer("channel", channel.to(device), persistent=False)

    def channel_gates(self, width: int) -> Tensor:
        """(width,) the factor on each output channel."""
        norms = self._source[0].row_norms()
        return torch.ones(width, device=norms.device, dtype=norms.dtype).index_copy(
            0, self.index, norms.clamp(max=1)[self.channel]
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        return outputs * self.channel_gates(outputs.shape[1])[(..., *[None] * (outputs.dim() - 2))]


def wrap_module(network: nn.Module, name: str, wrapper: Callable[[nn.Module], nn.Module]) -> None:
    """Replace the module called `name` by `wrapper(module)`, in the same mode."""
    module = network.get_submodule(name)
    wrapped = wrapper(module)
    wrapped.training = module.training
    replace_module(network, name, wrapped)


def find_compactors(network: nn.Module) -> dict[str, Compactor]:
    """The compactors of `network` by site."""
    return {module.site: module for module in network.modules() if isinstance(module, Compactor)}


def next_norms(network: nn.Module, example: Inputs) -> dict[str, str]:
    """Convolution -> batch norm, for each convolution that is called once and whose output goes into this norm."""
    network = copy_network(network)  # code may keep state
    sources: dict[int, str] = {}  # id of an output -> convolution
    held: list[Tensor] = []  # keeps outputs alive, so that no other tensor gets their ids
    readers: dict[str, list[str]] = {}
    calls: Counter[str] = Counter()

    def record_output(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] += 1
        held.append(output)
        sources[id(output)] = name

    def record_input(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[name] += 1
        if inputs and id(inputs[0]) in sources:
            readers.setdefault(sources[id(inputs[0])], []).append(name)

    modules = list(network.named_modules())
    norms = [(name, module) for name, module in modules if isinstance(module, BatchNorm)]
    before = [(module, partial(record_input, name)) for name, module in norms if module.running_mean is not None]
    after = [(module, partial(record_output, name)) for name, module in modules if isinstance(module, Conv)]
    with forward_hooks(before=before, after=after), evaluation_mode(network, example.device):
        example.first().clone()(network)
    return {conv: names[0] for conv, names in readers.items() if calls[conv] == calls[names[0]] == len(names) == 1}


def _norm_affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale γ/σ and shift β − μγ/σ of a norm in evaluation, both (D,), in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


@torch.no_grad()
def fold_convolution(conv: Conv, norm: BatchNorm | None, q: Tensor) -> None:
    """Multiply `norm` and the compactor's rows `q` (D, D) into `conv`, in place; `norm` itself does not change.

    The convolution gets a bias if it had one or if there is a norm.
    """
    # The filters first: (D, ...).
    weight, q = conv.weight.detach().double().movedim(layer_dims(conv)[0], 0), q.detach().double()
    shift = q.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    filters = weight.flatten(1)
    if norm is not None:
        scale, offset = _norm_affine(norm)
        filters, shift = filters * scale[:, None], shift * scale + offset
    conv.weight.movedim(layer_dims(conv)[0], 0).copy_((q @ filters).view(weight.shape))
    if norm is not None or conv.bias is not None:
        conv.bias = nn.Parameter((q @ shift).to(conv.weight.dtype))


@torch.no_grad()
def restore_norm(conv: Conv, norm: BatchNorm, biased: bool) -> None:
    """Move the bias of a folded convolution back into its norm, so that a site that lost nothing keeps its modules.

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
    """The module inside, with its gates (a follower may wrap another one) multiplied into weight and bias."""
    inner = fold_follower(follower.inner) if isinstance(follower.inner, Follower) else follower.inner
    weight = inner.weight
    assert isinstance(weight, Tensor)
    gate = follower.channel_gates(len(weight)).to(weight.dtype)
    weight.mul_(gate.view(-1, *[1] * (weight.dim() - 1)))
    if isinstance(inner.bias, Tensor):
        inner.bias.mul_(gate)
    return inner
