"""Coupled channel groups of any network, found by torch-pruning's dependency graph (DepGraph, CVPR 2023).

torch-pruning says which channels of which modules must go together; everything after that is arithmetic on the
resulting map of *slots*: channel `index[i]` on one side of a module is channel `channel[i]` of a group. The graph is
not believed blindly: what it claims is tried on a copy, and a group whose removal changes more than it should is
left dense with a reason (`verify.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch_pruning as tp
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.cut_graph import CUT_GRAPH, layers_cut_off
from methods.graph.narrow import Side, can_narrow, channels_of, is_depthwise, narrow, slice_tensor
from methods.graph.trace import LayerUse, trace_layers, uses_attention

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
ATTENTION = "the network uses attention, through which coupled channels cannot be traced; kse needs no such trace"
_OUTPUT = "it is an output of the network"


@dataclass(frozen=True)
class Slots:
    """Where a group's channels stand on one side of one module (or along one dimension of a bare parameter)."""

    name: str  # of the module or parameter
    side: Side
    index: Tensor  # (n,) channel of the module
    channel: Tensor  # (n,) channel of the group
    dim: int | None = None  # for a bare parameter


@dataclass
class Group:
    """Channels that can only be removed together."""

    name: str
    channels: int
    slots: list[Slots]
    partition: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(channels,) class of each channel; as many must be kept of each class (grouped convolutions, split halves)."""

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(slots.name for slots in self.slots))


def find_groups(network: nn.Module, example: Tensor) -> tuple[list[Group], dict[str, str], dict[str, LayerUse]]:
    """Every coupled channel group of `network` in the order of execution.

    Returns:
        The groups, the reasons for layers whose output channels must stay, and every layer's use.
    """
    uses = trace_layers(network, example)
    if uses_attention(network, example):  # torch-pruning's search for groups does not end in such networks
        return [], dict.fromkeys(uses, ATTENTION), uses
    twin = copy_network(network).eval().requires_grad_(True)
    names = {module: name for name, module in twin.named_modules()}
    skipped: dict[str, str] = {}
    try:
        graph = _trace(twin, example[:1])
    except Exception as error:  # torch-pruning fails in many ways on what it cannot trace
        reason = f"its channels could not be traced ({type(error).__name__}: {error})"
        return [], dict.fromkeys(uses, reason), uses
    parameters = {id(parameter): name for name, parameter in twin.named_parameters()}
    shared = shared_weights(twin)
    groups = []
    for found in graph.get_all_groups():
        group, fault = _read(graph, found, names, parameters, list(uses), shared)
        if fault:
            skipped[group.name] = fault
        else:
            groups.append(group)
    traced = {group.name for group in groups}
    ends = [name for name in uses if name not in traced and skipped.get(name, _OUTPUT) == _OUTPUT]
    skipped.update(dict.fromkeys(layers_cut_off(twin, example[:1], ends), CUT_GRAPH))
    order = {name: position for position, name in enumerate(uses)}
    groups.sort(key=lambda group: order.get(group.name, len(order)))
    return _without_conflicts(groups, skipped), skipped, uses


def shared_weights(network: nn.Module) -> dict[str, str]:
    """Modules that have a parameter in common with another module, each with what to say of it."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    reasons = {}
    for names in owners.values():
        reasons.update({name: f"{name} shares its weights with {other}" for name in names for other in names
                        if name != other})  # fmt: skip
    return reasons


def _trace(twin: nn.Module, example: Tensor) -> tp.DependencyGraph:
    own = {type(module): _OwnPruner() for module in twin.modules() if hasattr(module, "keep_out")}
    with torch.enable_grad():
        return tp.DependencyGraph().build_dependency(twin, example, customized_pruners=own, verbose=False)


class _OwnPruner(tp.function.BasePruningFunc):
    """Stands for a module that narrows itself on either side; torch-pruning only asks it for its widths."""

    def prune_out_channels(self, layer: nn.Module, idxs: Iterable[int]) -> nn.Module:
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Iterable[int]) -> nn.Module:
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return channels_of(layer, "out")

    def get_in_channels(self, layer: nn.Module) -> int:
        return channels_of(layer, "in")


def _read(
    graph: tp.DependencyGraph,
    found: tp.Group,
    names: dict[nn.Module, str],
    parameters: dict[int, str],
    order: list[str],
    shared: dict[str, str],
) -> tuple[Group, str | None]:
    """Translate one of torch-pruning's groups, or say why it must stay dense; `shared` as from `shared_weights`."""
    slots: list[Slots] = []
    reason: str | None = None
    for item in found.items:
        module, side = item.dep.target.module, _side(graph, item)
        index, channel = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
        if not item.dep.target.outputs and side == "out":
            reason = reason or _OUTPUT
        if isinstance(module, nn.Parameter):
            name = parameters.get(id(module), "a parameter")
            slots.append(Slots(name, "out", index, channel, int(item.dep.target.pruning_dim) % module.dim()))
        elif isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue  # one slope for all channels
        elif isinstance(module, nn.Module) and module in names:
            reason = reason or shared.get(names[module]) or _unfit(module, side, names[module], index)
            slots.append(Slots(names[module], side, index, channel))
    producers = [each.name for each in slots if each.side == "out" and each.name in order]
    name = min(producers, key=order.index)
    return Group(name, len(set(found[0].root_idxs)), _merged(slots)), reason


def _side(graph: tp.DependencyGraph, item: tp.dependency.GroupItem) -> Side:
    module = item.dep.target.module
    both = is_depthwise(module) or (not isinstance(module, LAYERS) and not hasattr(module, "keep_in"))
    return "out" if both or graph.is_out_channel_pruning_fn(item.dep.handler) else "in"


def _unfit(module: nn.Module, side: Side, name: str, index: Tensor) -> str | None:
    if not can_narrow(module):
        return f"it reaches {name}, a {type(module).__name__}, whose channels cannot be removed"
    if isinstance(module, LAYERS) and "weight" not in module._parameters:
        return f"the weights of {name} are computed from other parameters"
    if int(index.max()) >= channels_of(module, side):
        return f"its channels are padded or sliced on their way to {name}"
    return None


def _merged(slots: list[Slots]) -> list[Slots]:
    """One entry per (module, side, dim), its channels ascending, duplicates dropped."""
    gathered: dict[tuple[str, Side, int | None], set[tuple[int, int]]] = {}
    for each in slots:
        pairs = zip(each.index.tolist(), each.channel.tolist(), strict=True)
        gathered.setdefault((each.name, each.side, each.dim), set()).update(pairs)
    merged = []
    for (name, side, dim), found in gathered.items():
        index, channel = torch.tensor(sorted(found)).unbind(1)
        merged.append(Slots(name, side, index, channel, dim))
    return merged


def _without_conflicts(groups: list[Group], skipped: dict[str, str]) -> list[Group]:
    """Drop groups that claim a channel twice: for two of their own channels, or together with another group."""
    owners: dict[tuple[str, Side, int | None, int], set[tuple[str, int]]] = {}
    for group in groups:
        for each in group.slots:
            for index, channel in zip(each.index.tolist(), each.channel.tolist(), strict=True):
                owners.setdefault((each.name, each.side, each.dim, index), set()).add((group.name, channel))
    torn = {}
    for (name, *_), claims in owners.items():
        if len(claims) > 1:
            torn.update({group: name for group, _ in claims})
    for group_name, layer in torn.items():
        skipped[group_name] = f"{layer} mixes its channels in a way that cannot be separated"
    return [group for group in groups if group.name not in torn]


def set_partitions(groups: Iterable[Group], network: nn.Module) -> None:
    """Give every group the classes of channels of which equally many must be kept.

    Two channels are of one class if no module can tell them apart: each reaches the same modules equally often and
    lies in the same group of every grouped convolution and group norm.
    """
    modules = dict(network.named_modules())
    for group in groups:
        labels: list[list[tuple[str, Side, int]]] = [[] for _ in range(group.channels)]
        for each in group.slots:
            blocks = _blocks(modules.get(each.name))
            width = channels_of(modules[each.name], each.side) // blocks if blocks > 1 else None
            for index, channel in zip(each.index.tolist(), each.channel.tolist(), strict=True):
                labels[channel].append((each.name, each.side, index // width if width else 0))
        classes: dict[tuple[tuple[str, Side, int], ...], int] = {}
        group.partition = torch.tensor([classes.setdefault(tuple(label), len(classes)) for label in labels])


def find_lopsided_module(group: Group, network: nn.Module) -> str | None:
    """A module whose blocks (groups of a convolution or group norm) would lose unequally many channels, if any."""
    modules = dict(network.named_modules())
    for each in group.slots:
        blocks = _blocks(modules.get(each.name))
        if blocks > 1:
            width = channels_of(modules[each.name], each.side) // blocks
            if len(torch.bincount(each.index // width, minlength=blocks).unique()) > 1:
                return each.name
    return None


def _blocks(module: nn.Module | None) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, nn.modules.conv._ConvNd) and not is_depthwise(module):
        return module.groups
    return 1


def keep_channels(network: nn.Module, groups: Iterable[Group], kept: dict[str, Tensor]) -> None:
    """Narrow `network` in place so that of every group named in `kept` only those channels are left.

    Args:
        network: a copy of the network that the groups were found on.
        groups: the groups; those without an entry in `kept` stay whole.
        kept: group name -> ascending channels to keep.
    """
    gone: dict[tuple[str, Side, int | None], list[Tensor]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        stays = torch.zeros(group.channels, dtype=torch.bool)
        stays[kept[group.name]] = True
        for each in group.slots:
            gone.setdefault((each.name, each.side, each.dim), []).append(each.index[~stays[each.channel]])
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    for (name, side, dim), removed in gone.items():
        width = parameters[name].shape[dim] if dim is not None else channels_of(modules[name], side)
        stays = torch.ones(width, dtype=torch.bool)
        stays[torch.cat(removed)] = False
        keep = stays.nonzero().flatten()
        if len(keep) == width:
            continue
        if dim is None:
            narrow(modules[name], side, keep)
        else:
            owner, _, leaf = name.rpartition(".")
            slice_tensor(modules[owner], leaf, dim, keep)
