"""The trial of coupled groups: removing channels must have the same effect as masking them.

One copy of the network is narrowed. In a second copy all channels stay, but every consumer sees zeros in place of the
removed ones, and norms over channels (LayerNorm, GroupNorm) measure the remaining ones alone. Both copies must give the
same outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.base import copy_network
from methods.graph.channels import Group, keep_channels, removed_channels
from methods.graph.narrow import channels_of, narrow_module
from methods.graph.other_paths import describe_error, fault_on_other_paths

# Outputs may differ by the order of summation only; a wrong channel shows as a difference of the size of the output.
TOLERANCE = 1e-3


def sound_groups(network: nn.Module, example: Tensor, groups: list[Group]) -> tuple[list[Group], dict[str, str]]:
    """The groups that pass the trial, and a reason for each group that fails.

    All groups are tried at once. If that fails, each is tried alone, and the sound ones are tried together again.
    """
    reason = _try_groups(network, example, groups)
    if reason is None:
        return groups, {}
    faults = {group.name: fault for group in groups if (fault := _try_groups(network, example, [group]))}
    sound = [group for group in groups if group.name not in faults]
    together = _try_groups(network, example, sound)
    if together is not None:  # sound alone but not together: none can be trusted
        return [], {group.name: faults.get(group.name, together) for group in groups}
    return sound, faults


def trial_channels(group: Group, number: int) -> Tensor:
    """Channels to keep in a trial, ascending: half or three quarters of every class, at random.

    Groups lose different channels, so that two groups whose coupling was missed fail when both are narrowed. Classes
    lose different positions, as they will under scores, so that classes that must lose the same ones (a half that
    gates the other) fail.
    """
    staying = []
    for c in range(group.classes):
        members = torch.where(group.partition == c)[0]
        gone = max(len(members) // (4 if number % 2 else 2), 1)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(number))
        shift = c * max(len(members) // group.classes, 1)
        staying.append(members[order.roll(shift)[gone:]])
    return torch.cat(staying).sort().values


@torch.no_grad()
def _try_groups(network: nn.Module, example: Tensor, groups: list[Group]) -> str | None:
    staying = {group.name: trial_channels(group, number) for number, group in enumerate(groups)}
    narrowed, masked = copy_network(network).eval(), copy_network(network).eval()
    inputs = example.to(next(network.parameters()).dtype)
    try:
        keep_channels(narrowed, groups, staying)
        outputs = tree_leaves(narrowed(inputs))
    except Exception as error:  # whatever the user's forward pass raises, the group must stay dense
        return f"the network does not run without its channels ({describe_error(error)})"
    if fault := fault_on_other_paths(network, narrowed, example):
        return fault
    _mask_channels(masked, groups, staying)
    for output, wanted in zip(outputs, tree_leaves(masked(inputs)), strict=True):
        if output.shape != wanted.shape:
            return f"removing its channels changes the network's output to {tuple(output.shape)}"
        if not (output - wanted).abs().max() <= TOLERANCE * wanted.abs().max() + 1e-12:
            return _why_different(masked, inputs)
    return None


def _why_different(network: nn.Module, inputs: Tensor) -> str:
    """Why the outputs of both copies differ; the cause may lie in the network itself."""
    first, second = tree_leaves(network(inputs)), tree_leaves(network(inputs))
    if not all(output.isfinite().all() for output in first):
        return "the network's outputs are not finite"
    if not all(map(torch.equal, first, second)):
        return "the network's outputs differ from call to call"
    return "removing its channels changes more than those channels"


def _mask_channels(network: nn.Module, groups: list[Group], staying: dict[str, Tensor]) -> None:
    """Let every consumer see zeros, and norms over channels leave them out, where channels are not in `staying`."""
    modules = dict(network.named_modules())
    absent: dict[str, list[Tensor]] = {}
    for slots, removed in removed_channels(groups, staying):
        if slots.side == "in":
            _zero_inputs(modules[slots.name], removed)
        elif slots.dim is not None:
            _zero_slices(network, slots.name, slots.dim, removed)
        elif isinstance(modules.get(slots.name), (nn.LayerNorm, nn.GroupNorm)):
            absent.setdefault(slots.name, []).append(removed)
    for name, gone in absent.items():
        _mask_norm(modules[name], torch.cat(gone))


@torch.no_grad()
def _zero_slices(network: nn.Module, name: str, dim: int, gone: Tensor) -> None:
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    tensors[name].index_fill_(dim, gone.to(tensors[name].device), 0)


def _zero_inputs(module: nn.Module, gone: Tensor) -> None:
    dim = -1 if isinstance(module, nn.Linear) else 1
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(dim, gone.to(inputs[0].device), 0),))


def _mask_norm(norm: nn.Module, gone: Tensor) -> None:
    """Let a norm over channels measure and normalise all channels but `gone`, whose outputs become zeros."""
    width = channels_of(norm, "out")
    stays = torch.ones(width, dtype=torch.bool)
    stays[gone] = False
    keep = stays.nonzero().flatten()
    small = copy_network(norm)
    narrow_module(small, "out", keep)

    def normalise_kept(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # A plain LayerNorm has its channels last; a GroupNorm and torchvision's LayerNorm2d have them second.
        dim = -1 if type(norm) is nn.LayerNorm or output.shape[1] != width else 1
        where = keep.to(output.device)
        return torch.zeros_like(output).index_copy(dim, where, small(inputs[0].index_select(dim, where)))

    norm.register_forward_hook(normalise_kept)
