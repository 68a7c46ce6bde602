"""Coupled channel groups of any network, found by torch-pruning's dependency graph (DepGraph, CVPR 2023).

torch-pruning says which channels of which modules must be removed together. Its answer is translated into *slots*:
channel `index[i]` on one side of a module is channel `channel[i]` of a group. Whether the translation is right is
tried on a copy of the network, and a group that fails the trial stays dense with a reason (`verify.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch_pruning as tp
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.cut_graph import CUT_GRAPH, layers_cut_off
from methods.graph.narrow import Side, can_narrow, channels_of, is_depthwise, narrow_module, slice_tensor
from methods.graph.trace import LayerUse, trace_layers, uses_attention

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
ATTENTION = "the network uses attention, through which coupled channels cannot be traced; kse needs no such trace"
_OUTPUT = "it is an output of the network"


@dataclass(frozen=True)
class Slots:
    """The channels of a group on one side of one module, or along one dimension of a bare parameter."""

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
    """(channels,) class of each channel; equally many must stay of every class (grouped convolutions, halves)."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.partition.max()) + 1

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules and bare parameters that change with the group."""
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
        graph = _trace_dependencies(twin, example[:1])
    except Exception as error:  # torch-pruning fails in many ways on what it cannot trace
        reason = f"its channels could not be traced ({type(error).__name__}: {error})"
        return [], dict.fromkeys(uses, reason), uses
    parameters = {id(parameter): name for name, parameter in twin.named_parameters()}
    shared = shared_weights(twin)
    groups = []
    for dependencies in graph.get_all_groups():
        group, fault = _read_group(graph, dependencies, names, parameters, list(uses), shared)
        if fault:
            skipped[group.name] = fault
        else:
            groups.append(group)
    # A layer in no group feeds an output, or lies where autograd does not reach: find which, for the reason.
    traced = {group.name for group in groups}
    ends = [name for name in uses if name not in traced and skipped.get(name, _OUTPUT) == _OUTPUT]
    skipped.update(dict.fromkeys(layers_cut_off(twin, example[:1], ends), CUT_GRAPH))
    order = {name: position for position, name in enumerate(uses)}
    groups.sort(key=lambda group: order.get(group.name, len(order)))
    return _drop_conflicts(groups, skipped), skipped, uses


def shared_weights(network: nn.Module) -> dict[str, str]:
    """Modules that have a parameter in common with another module, each with a sentence that names both."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    reasons = {}
    for names in owners.values():
        reasons.update({name: f"{name} shares its weights with {partner}" for name in names for partner in names
                        if name != partner})  # fmt: skip
    return reasons


def _trace_dependencies(twin: nn.Module, example: Tensor) -> tp.DependencyGraph:
    pruners = {type(module): _SelfNarrowing() for module in twin.modules() if hasattr(module, "keep_out")}
    with torch.enable_grad():
        return tp.DependencyGraph().build_dependency(twin, example, customized_pruners=pruners, verbose=False)


class _SelfNarrowing(tp.function.BasePruningFunc):
    """Tells torch-pruning the widths of a module that brings its own `keep_in` and `keep_out`; never prunes."""

    def prune_out_channels(self, layer: nn.Module, idxs: Iterable[int]) -> nn.Module:
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Iterable[int]) -> nn.Module:
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return channels_of(layer, "out")

    def get_in_channels(self, layer: nn.Module) -> int:
        return channels_of(layer, "in")


def _read_group(
    graph: tp.DependencyGraph,
    dependencies: tp.Group,
    names: dict[nn.Module, str],
    parameters: dict[int, str],
    order: list[str],
    shared: dict[str, str],
) -> tuple[Group, str | None]:
    """One of torch-pruning's groups as ours, and why it must stay dense, if so; `shared` is from `shared_weights`."""
    slots: list[Slots] = []
    reason: str | None = None
    for item in dependencies.items:
        module, side = item.dep.target.module, _slot_side(graph, item)
        index, channel = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
        if not item.dep.target.outputs and side == "out":
            reason = reason or _OUTPUT
        if isinstance(module, nn.Parameter):
            name = parameters.get(id(module), "a parameter")
            slots.append(Slots(name, "out", index, channel, int(item.dep.target.pruning_dim) % module.dim()))
        elif isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue  # one slope for all channels
        elif isinstance(module, nn.Module) and module in names:
            reason = reason or shared.get(names[module]) or _why_unfit(module, side, names[module], index)
            slots.append(Slots(names[module], side, index, channel))
    # The group is called after the first layer that computes its channels.
    producers = [entry.name for entry in slots if entry.side == "out" and entry.name in order]
    name = min(producers, key=order.index)
    return Group(name, len(set(dependencies[0].root_idxs)), _merge_slots(slots)), reason


def _slot_side(graph: tp.DependencyGraph, item: tp.dependency.GroupItem) -> Side:
    module = item.dep.target.module
    both = is_depthwise(module) or (not isinstance(module, LAYERS) and not hasattr(module, "keep_in"))
    return "out" if both or graph.is_out_channel_pruning_fn(item.dep.handler) else "in"


def _why_unfit(module: nn.Module, side: Side, name: str, index: Tensor) -> str | None:
    if not can_narrow(module):
        return f"it reaches {name}, a {type(module).__name__}, whose channels cannot be removed"
    if isinstance(module, LAYERS) and "weight" not in module._parameters:
        return f"the weights of {name} are computed from other parameters"
    if int(index.max()) >= channels_of(module, side):
        return f"its channels are padded or sliced on their way to {name}"
    return None


def _merge_slots(slots: list[Slots]) -> list[Slots]:
    """The same slots with one entry per (module, side, dim), channels ascending, without duplicates."""
    gathered: dict[tuple[str, Side, int | None], set[tuple[int, int]]] = {}
    for entry in slots:
        links = zip(entry.index.tolist(), entry.channel.tolist(), strict=True)
        gathered.setdefault((entry.name, entry.side, entry.dim), set()).update(links)
    merged = []
    for (name, side, dim), places in gathered.items():
        index, channel = torch.tensor(sorted(places)).unbind(1)
        merged.append(Slots(name, side, index, channel, dim))
    return merged


def _drop_conflicts(groups: list[Group], skipped: dict[str, str]) -> list[Group]:
    """Without the groups that claim a channel of a module twice: two of their channels do, or another group does."""
    owners: dict[tuple[str, Side, int | None, int], set[tuple[str, int]]] = {}
    for group in groups:
        for slots in group.slots:
            for index, channel in zip(slots.index.tolist(), slots.channel.tolist(), strict=True):
                owners.setdefault((slots.name, slots.side, slots.dim, index), set()).add((group.name, channel))
    torn = {}
    for (name, *_), claims in owners.items():
        if len(claims) > 1:
            torn.update({group: name for group, _ in claims})
    for group_name, layer in torn.items():
        skipped[group_name] = f"{layer} mixes its channels in a way that cannot be separated"
    return [group for group in groups if group.name not in torn]


def set_partitions(groups: Iterable[Group], network: nn.Module) -> None:
    """Set `partition` of every group.

    Two channels are of one class if both reach the same modules equally often and lie in the same group of every
    grouped convolution and group norm.
    """
    modules = dict(network.named_modules())
    for group in groups:
        labels: list[list[tuple[str, Side, int]]] = [[] for _ in range(group.channels)]
        for slots in group.slots:
            blocks = _count_blocks(modules.get(slots.name))
            width = channels_of(modules[slots.name], slots.side) // blocks if blocks > 1 else None
            for index, channel in zip(slots.index.tolist(), slots.channel.tolist(), strict=True):
                labels[channel].append((slots.name, slots.side, index // width if width else 0))
        classes: dict[tuple[tuple[str, Side, int], ...], int] = {}
        group.partition = torch.tensor([classes.setdefault(tuple(label), len(classes)) for label in labels])


def find_lopsided_module(group: Group, network: nn.Module) -> str | None:
    """The name of a grouped convolution or group norm whose groups would lose unequally many channels, if any."""
    modules = dict(network.named_modules())
    for slots in group.slots:
        blocks = _count_blocks(modules.get(slots.name))
        if blocks > 1:
            width = channels_of(modules[slots.name], slots.side) // blocks
            if len(torch.bincount(slots.index // width, minlength=blocks).unique()) > 1:
                return slots.name
    return None


def _count_blocks(module: nn.Module | None) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, nn.modules.conv._ConvNd) and not is_depthwise(module):
        return module.groups
    return 1


def removed_channels(groups: Iterable[Group], staying: Mapping[str, Tensor]) -> Iterator[tuple[Slots, Tensor]]:
    """The slots of the groups named in `staying`, each with the channels that its module loses."""
    for group in groups:
        if group.name in staying:
            stays = torch.zeros(group.channels, dtype=torch.bool)
            stays[staying[group.name]] = True
            for slots in group.slots:
                yield slots, slots.index[~stays[slots.channel]]


def keep_channels(network: nn.Module, groups: Iterable[Group], staying: Mapping[str, Tensor]) -> None:
    """Narrow `network` in place so that of every group named in `staying` only these channels remain.

    Args:
        network: a copy of the network that the groups were found on.
        groups: the groups; those without an entry in `staying` keep all channels.
        staying: group name -> ascending channels to keep.
    """
    gone: dict[tuple[str, Side, int | None], list[Tensor]] = {}  # several groups may meet in one module
    for slots, removed in removed_channels(groups, staying):
        gone.setdefault((slots.name, slots.side, slots.dim), []).append(removed)
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    for (name, side, dim), pieces in gone.items():
        width = parameters[name].shape[dim] if dim is not None else channels_of(modules[name], side)
        stays = torch.ones(width, dtype=torch.bool)
        stays[torch.cat(pieces)] = False
        keep = stays.nonzero().flatten()
        if len(keep) == width:
            continue
        if dim is None:
            narrow_module(modules[name], side, keep)
        else:
            owner, _, leaf = name.rpartition(".")
            slice_tensor(modules[owner], leaf, dim, keep)
