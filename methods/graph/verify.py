"""Groups are believed only after a trial: removing channels must equal ignoring them.

A copy of the network is narrowed; another keeps its channels, but every consumer sees zeros in their place. Both must
give the same outputs. Norms over channels (LayerNorm, GroupNorm) of the other copy measure the kept channels alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.base import copy_network
from methods.graph.channels import Group, keep_channels
from methods.graph.narrow import channels_of, narrow
from methods.graph.other_paths import fault_on_other_paths

# Outputs may differ by the order of summation only; a wrong channel shows as a difference of the size of the output.
TOLERANCE = 1e-3


def sound_groups(network: nn.Module, example: Tensor, groups: list[Group]) -> tuple[list[Group], dict[str, str]]:
    """The groups that survive, and a reason for each that does not.

    All are tried at once; only when that fails is each tried alone, and then the survivors together once more.
    """
    reason = _trial(network, example, groups)
    if reason is None:
        return groups, {}
    faults = {group.name: fault for group in groups if (fault := _trial(network, example, [group]))}
    sound = [group for group in groups if group.name not in faults]
    together = _trial(network, example, sound)
    if together is not None:  # each works alone but not with the others: none can be trusted
        return [], {group.name: faults.get(group.name, together) for group in groups}
    return sound, faults


def trial_channels(group: Group, number: int) -> Tensor:
    """Channels to keep in a trial, ascending: half or three quarters of every class, at random.

    Groups differ, so that two which belong together but were not found to do not pass as a pair. Classes take other
    positions each, as scores will: those whose channels belong together (a half that gates the other) do not pass.
    """
    classes, kept = int(group.partition.max()) + 1, []
    for c in range(classes):
        members = torch.where(group.partition == c)[0]
        gone = max(len(members) // (4 if number % 2 else 2), 1)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(number))
        shift = c * max(len(members) // classes, 1)
        kept.append(members[order.roll(shift)[gone:]])
    return torch.cat(kept).sort().values


@torch.no_grad()
def _trial(network: nn.Module, example: Tensor, groups: list[Group]) -> str | None:
    kept = {group.name: trial_channels(group, number) for number, group in enumerate(groups)}
    narrowed, masked = copy_network(network).eval(), copy_network(network).eval()
    inputs = example.to(next(network.parameters()).dtype)
    try:
        keep_channels(narrowed, groups, kept)
        found = tree_leaves(narrowed(inputs))
    except Exception as error:  # any error of the user's forward pass means the same: this group must stay
        return f"the network does not run without its channels ({_first_line(error)})"
    if fault := fault_on_other_paths(network, narrowed, example):
        return fault
    _ignore(masked, groups, kept)
    for part, wanted in zip(found, tree_leaves(masked(inputs)), strict=True):
        if part.shape != wanted.shape:
            return f"removing its channels changes the network's output to {tuple(part.shape)}"
        if not (part - wanted).abs().max() <= TOLERANCE * wanted.abs().max() + 1e-12:
            return _why_different(masked, inputs)
    return None


def _why_different(network: nn.Module, inputs: Tensor) -> str:
    """The reason why outputs do not agree, which may lie in the network as it is."""
    one, other = tree_leaves(network(inputs)), tree_leaves(network(inputs))
    if not all(part.isfinite().all() for part in one):
        return "the network's outputs are not finite"
    if not all(map(torch.equal, one, other)):
        return "the network's outputs differ from call to call"
    return "removing its channels changes more than those channels"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _ignore(network: nn.Module, groups: list[Group], kept: dict[str, Tensor]) -> None:
    """Make every consumer see zeros, and every norm over channels nothing, in the channels that are not kept."""
    modules = dict(network.named_modules())
    absent: dict[str, list[Tensor]] = {}
    for group in groups:
        stays = torch.zeros(group.channels, dtype=torch.bool)
        stays[kept[group.name]] = True
        for each in group.slots:
            if each.side == "in":
                _blind(modules[each.name], each.index[~stays[each.channel]])
            elif isinstance(modules.get(each.name), (nn.LayerNorm, nn.GroupNorm)):
                absent.setdefault(each.name, []).append(each.index[~stays[each.channel]])
    for name, gone in absent.items():
        _overlook(modules[name], torch.cat(gone))


def _blind(module: nn.Module, gone: Tensor) -> None:
    dim = -1 if isinstance(module, nn.Linear) else 1
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(dim, gone.to(inputs[0].device), 0),))


def _overlook(norm: nn.Module, gone: Tensor) -> None:
    """Let a norm over channels measure and normalise the others only, and give zeros for these."""
    width = channels_of(norm, "out")
    stays = torch.ones(width, dtype=torch.bool)
    stays[gone] = False
    keep = stays.nonzero().flatten()
    small = copy_network(norm)
    narrow(small, "out", keep)

    def apply(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # A plain LayerNorm has its channels last; a GroupNorm and torchvision's LayerNorm2d have them second.
        dim = -1 if type(norm) is nn.LayerNorm or output.shape[1] != width else 1
        where = keep.to(output.device)
        return torch.zeros_like(output).index_copy(dim, where, small(inputs[0].index_select(dim, where)))

    norm.register_forward_hook(apply)
