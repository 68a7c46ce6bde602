"""Groups are believed only after a trial: removing channels must equal ignoring them.

A copy of the network is narrowed; another keeps its channels, but every consumer sees zeros in their place. Both must
give the same outputs. Norms over channels (LayerNorm, GroupNorm) change when channels go, so
with those only the forward pass and the output's shape are checked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.channels import Group, keep_channels

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


def balanced_half(group: Group) -> Tensor:
    """Every second channel of every class, ascending: a removal that mixes up any wrong indexing."""
    kept = [members[::2] for members in (torch.where(group.partition == c)[0] for c in group.partition.unique())]
    return torch.cat(kept).sort().values


@torch.no_grad()
def _trial(network: nn.Module, example: Tensor, groups: list[Group]) -> str | None:
    kept = {group.name: balanced_half(group) for group in groups}
    narrow, masked = copy_network(network).eval(), copy_network(network).eval()
    inputs = example.to(next(network.parameters()).dtype)
    try:
        keep_channels(narrow, groups, kept)
        found = narrow(inputs)
    except Exception as error:  # any error of the user's forward pass means the same: this group must stay
        return f"the network does not run without its channels ({_first_line(error)})"
    _ignore(masked, groups, kept)
    expected = masked(inputs)
    if found.shape != expected.shape:
        return f"removing its channels changes the network's output to {tuple(found.shape)}"
    if any(isinstance(module, (nn.LayerNorm, nn.GroupNorm)) for module in network.modules()):
        return None
    difference = (found - expected).abs().max()
    if not difference <= TOLERANCE * expected.abs().max() + 1e-12:
        return "removing its channels changes more than those channels"
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _ignore(network: nn.Module, groups: list[Group], kept: dict[str, Tensor]) -> None:
    """Make every consumer see zeros in the channels that are not kept."""
    modules = dict(network.named_modules())
    for group in groups:
        stays = torch.zeros(group.channels, dtype=torch.bool)
        stays[kept[group.name]] = True
        for each in group.slots:
            if each.side == "in":
                _blind(modules[each.name], each.index[~stays[each.channel]])


def _blind(module: nn.Module, gone: Tensor) -> None:
    dim = -1 if isinstance(module, nn.Linear) else 1
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(dim, gone.to(inputs[0].device), 0),))
