"""Second implementations for the tests of methods: counts by torch, channels found by their biases, masked norms."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from methods.base import Cost

CONVOLUTIONS = nn.modules.conv._ConvNd
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def count_cost(network: nn.Module, image: Tensor) -> Cost:
    """What torch's counter finds in one forward pass of one image; a multiply-accumulate is two of its flops.

    Products of activations (attention's scores) are no layer's; with gradients, no block runs as one operator. torch
    does not count LSTMs, which apply all their matrices at every step.
    """
    network.eval()
    recurrent = [0]

    def count_steps(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        matrices = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)
        recurrent[0] += inputs[0].shape[:-1].numel() * matrices

    hooks = [module.register_forward_hook(count_steps) for module in network.modules() if isinstance(module, nn.LSTM)]
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        network(image[:1])
    for hook in hooks:
        hook.remove()
    counts = counter.get_flop_counts()["Global"]
    flops = sum(
        count for operator, count in counts.items() if "bmm" not in str(operator) and "dot" not in str(operator)
    )
    assert flops % 2 == 0
    params = sum({id(p): p.numel() for p in network.parameters()}.values())
    return Cost(flops // 2 + recurrent[0], params, 4 * params)


def randomise_channels(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic random, so that no two channels are alike and each is known by its bias."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator)
            spread = 0.5 + values.abs() if name.endswith("running_var") else values
            tensor.data.copy_(spread * (0.3 if tensor.dim() > 1 else 1.0))
    return network.eval()


def surviving_positions(dense: Tensor, small: Tensor) -> Tensor:
    """Positions in `dense` of the values of `small`, which must all be there, in order and once."""
    positions = [int((dense == value).nonzero().item()) for value in small]
    assert positions == sorted(positions)
    return torch.tensor(positions)


def empty_removed(dense: nn.Module, small: nn.Module) -> nn.Module:
    """The dense network with the parameters of all channels that `small` has not put to zero.

    Which they are is read off the biases, and the inputs that a layer has lost off its weight, so nothing that the
    method says of its groups enters. Norms over channels measure the channels that are left alone.
    """
    twin = copy.deepcopy(dense).eval()
    smaller = dict(small.named_modules())
    for name, module in list(twin.named_modules()):
        if (
            isinstance(module, (CONVOLUTIONS, nn.Linear))
            and getattr(module, "groups", 1) == 1
            and "weight" in module._parameters
        ):
            _empty_lost_inputs(module, smaller[name])
    for name, module in list(twin.named_modules()):
        bias = getattr(module, "bias", None)
        mean = getattr(module, "running_mean", None)
        if bias is None and isinstance(mean, Tensor):  # a norm without weights: its means tell its channels apart
            channels = surviving_positions(mean, smaller[name].running_mean)
            module.running_mean = torch.zeros_like(mean).index_copy(0, channels, mean[channels])
        if not isinstance(bias, Tensor) or not isinstance(module, (CONVOLUTIONS, nn.Linear, *NORMS)):
            continue
        channels = surviving_positions(bias.detach(), smaller[name].bias.detach())
        gone = torch.ones(len(bias), dtype=torch.bool)
        gone[channels] = False
        transposed = isinstance(module, CONVOLUTIONS) and module.transposed
        if transposed:  # (inputs, outputs per group, ...), the inputs of one group after those of another
            for block, lost in zip(module.weight.data.chunk(module.groups), gone.chunk(module.groups), strict=True):
                block[:, lost] = 0
        elif module.weight is not None:
            module.weight.data[gone] = 0
        bias.data[gone] = 0
        if isinstance(module, nn.LayerNorm):
            _replace_module(twin, name, MaskedLayerNorm(module, channels))
        elif isinstance(module, nn.GroupNorm):
            _replace_module(twin, name, MaskedGroupNorm(module, channels))
    return twin


@torch.no_grad()
def _empty_lost_inputs(layer: nn.Module, small: nn.Module) -> None:
    """Zeros in the columns of a layer's weight that the small layer's does not have."""
    transposed = isinstance(layer, CONVOLUTIONS) and layer.transposed
    weight, small_weight = (module.weight.transpose(0, 1) if transposed else module.weight for module in (layer, small))
    corner = (0,) * (weight.dim() - 2)
    row = surviving_positions(layer.bias, small.bias)[0]
    stays = surviving_positions(weight[(row, slice(None), *corner)], small_weight[(0, slice(None), *corner)])
    gone = [column for column in range(weight.shape[1]) if column not in stays.tolist()]
    weight[:, gone] = 0


def _replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, module)


class MaskedLayerNorm(nn.Module):
    """Layer norm over the last dimension whose statistics see the channels `kept` alone."""

    def __init__(self, norm: nn.LayerNorm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        present = x[..., self.kept]
        mean = present.mean(-1, keepdim=True)
        variance = (present - mean).square().mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + self.norm.eps) * self.norm.weight + self.norm.bias


class MaskedGroupNorm(nn.Module):
    """Group norm whose statistics see the channels `kept` alone."""

    def __init__(self, norm: nn.GroupNorm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        width = x.shape[1] // self.norm.num_groups
        for group in range(self.norm.num_groups):
            members = self.kept[(self.kept >= group * width) & (self.kept < (group + 1) * width)]
            out[:, members] = functional.group_norm(x[:, members], 1, eps=self.norm.eps)
        return out * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]
