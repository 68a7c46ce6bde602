"""Places of ResRep's compactors in a network, and the folding of all of them.

The compactor follows the first convolution that writes a site's channels, and gates all further writers (`Follower`).
Each place is tried on a copy with noisy norms and biases: with half of the rows at zero, the network must compute the
same as the folded, narrower one. The trial fails where a writer cannot be gated (a convolution without norm in a
residual stream, a padded shortcut) or where a norm mixes the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.channel_sites import ChannelGroups
from methods.graph.channels import Group, Slots, producing_layers
from methods.graph.comparison import are_close, have_same_shapes
from methods.graph.narrow import CONVOLUTIONS, LAYERS, TRANSPOSED, Conv, channels_of, is_depthwise
from methods.graph.trace import layer_modules
from methods.resrep.compactor import (
    BatchNorm,
    Compacted,
    Compactor,
    Follower,
    find_compactors,
    fold_convolution,
    fold_follower,
    next_norms,
    restore_norm,
    wrap_module,
)
from models.execution.inputs import Inputs
from models.execution.random_state import random_state
from models.execution.tensor_leaves import output_leaves

# Both networks compute the same sums in another order; a channel that is not silent changes outputs by their own size.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Place:
    """A compactor's place: after `norm`, or directly after `conv` where there is no norm."""

    site: str
    position: int  # of the site's group among all groups
    conv: str
    norm: str | None
    followers: tuple[Slots, ...]
    params_added: int  # per kept row of a narrowed site: the new bias, less the norm's parameters
    shared: bool  # several layers write the channels, as in a residual stream

    @property
    def host_name(self) -> str:
        """The module that is wrapped together with the compactor."""
        return self.norm or self.conv


def find_places(network: nn.Module, example: Inputs, channels: ChannelGroups) -> tuple[list[Place], dict[str, str]]:
    """A place for every group that can have one, in the order of groups, and a reason for the layers of all others."""
    norms = next_norms(network, example)
    reasons: dict[str, str] = {}
    sure: list[Place] = []
    doubtful: list[Place] = []
    for position, group in enumerate(channels.groups):
        reason = _why_unfit(network, group)
        if reason:
            reasons[group.name] = reason
            continue
        place = _make_place(network, group, position, norms.get(group.name))
        (doubtful if place.shared else sure).append(place)
    exact = _exact_places(network, example, channels, sure, doubtful)
    for place in sure + doubtful:
        if place.site not in exact:
            reasons[place.site] = _why_inexact(network, channels.groups[place.position])
    layers = layer_modules(network)
    sited = {name for place in exact.values() for name in producing_layers(channels.groups[place.position], layers)}
    for group in channels.groups:
        if group.name in reasons:
            others = (name for name in producing_layers(group, layers) if name not in sited | reasons.keys())
            reasons.update(dict.fromkeys(others, reasons[group.name]))
    return sorted(exact.values(), key=lambda place: place.position), reasons


def _exact_places(
    network: nn.Module, example: Inputs, channels: ChannelGroups, sure: list[Place], doubtful: list[Place]
) -> dict[str, Place]:
    """The places that pass their trial, by site; `sure` ones are tried together, `doubtful` ones each alone."""
    trial = _Trial(network, example, channels)
    exact = {place.site: place for place in trial.exact_places(sure)}
    for place in doubtful:
        exact |= {survivor.site: survivor for survivor in trial.exact_places([place])}
    for place in sure:  # where another layer reads the convolution's output too, the place behind its norm fails
        if place.norm and place.site not in exact:
            bare = _make_place(network, channels.groups[place.position], place.position, None)
            exact |= {survivor.site: survivor for survivor in trial.exact_places([bare])}
    return exact


def _why_unfit(network: nn.Module, group: Group) -> str | None:
    """Why a group cannot have a compactor, if its modules already show that."""
    conv = dict(network.named_modules()).get(group.name)
    if conv is None:  # a part of a layer's channels, or those of a bare weight
        return "its channels are not those of one convolution"
    grouped = "grouped " if getattr(conv, "groups", 1) != 1 else ""
    if grouped or type(conv) not in (*CONVOLUTIONS, *TRANSPOSED):
        return f"a compactor follows ungrouped convolutions, not a {grouped}{type(conv).__name__}"
    if len(group.partition.unique()) > 1:
        return "its channels must go in balanced classes, which compactors do not know"
    written = [slots for slots in group.slots if slots.name == group.name and slots.side == "out"]
    straight = torch.arange(channels_of(conv, "out"))
    if len(written) != 1 or not (torch.equal(written[0].index, straight) and torch.equal(written[0].channel, straight)):
        return "its channels are not those of one convolution"
    return None


def _count_writers(network: nn.Module, group: Group) -> int:
    """The number of layers that compute the group's channels from other channels."""
    names = {slots.name for slots in group.slots if slots.side == "out" and slots.dim is None}
    modules = [network.get_submodule(name) for name in names]
    return sum(isinstance(module, LAYERS) and not is_depthwise(module) for module in modules)


def _why_inexact(network: nn.Module, group: Group) -> str:
    writers = _count_writers(network, group)
    if writers > 1:
        return f"{writers} layers write its channels, and not everything that they write can be silenced"
    return "a forgotten channel does not stay silent up to the layers that read it"


def _make_place(network: nn.Module, group: Group, position: int, norm: str | None) -> Place:
    followers = tuple(
        slots
        for slots in group.slots
        if slots.side == "out" and slots.dim is None and slots.name not in (group.name, norm)
        and _needs_gate(network.get_submodule(slots.name))
    )  # fmt: skip
    added = 0
    if norm is not None:
        parameters = sum(1 for _ in network.get_submodule(norm).parameters(recurse=False))
        added = int(network.get_submodule(group.name).bias is None) - parameters
    return Place(group.name, position, group.name, norm, followers, added, _count_writers(network, group) > 1)


def _needs_gate(module: nn.Module) -> bool:
    """Whether a module works channel by channel and may turn a silent channel into a nonzero one."""
    return is_depthwise(module) or (isinstance(module, BatchNorm) and module.affine)


def attach_compactors(network: nn.Module, places: Sequence[Place]) -> None:
    """Put compactors, all identities, at `places`; in place."""
    layers = {place.site: network.get_submodule(place.conv) for place in places}
    for place in places:
        conv = layers[place.site]
        assert isinstance(conv, Conv)
        compactor = Compactor(place.site, conv.out_channels, conv.weight)
        wrap_module(network, place.host_name, partial(Compacted, compactor=compactor))
        for slots in place.followers:
            gate = partial(Follower, compactor=compactor, index=slots.index, channel=slots.channel)
            wrap_module(network, slots.name, gate)


def fold_network(
    network: nn.Module, places: Sequence[Place], staying: Mapping[str, Tensor], channels: ChannelGroups
) -> None:
    """Fold every compactor of `network` and narrow its site to the rows `staying` (ascending); in place."""
    present = find_compactors(network)
    places = [place for place in places if place.site in present]
    for place in places:  # gates read their compactors, so they go first
        for slots in place.followers:
            _unwrap_follower(network, slots.name)
    narrowed = [place for place in places if len(staying[place.site]) < len(present[place.site].alive)]
    for place in places:
        wrap_module(network, place.host_name, attrgetter("inner"))
        conv = network.get_submodule(place.conv)
        norm = None if place.norm is None else network.get_submodule(place.norm)
        assert isinstance(conv, Conv)
        assert norm is None or isinstance(norm, BatchNorm)
        biased = conv.bias is not None
        fold_convolution(conv, norm, present[place.site].current_rows())
        if norm is not None and place not in narrowed:
            restore_norm(conv, norm, biased)
    channels.narrow_network(network, {place.site: staying[place.site] for place in narrowed})
    for place in narrowed:
        if place.norm is not None:
            wrap_module(network, place.norm, lambda norm: nn.Identity().train(norm.training))


def _unwrap_follower(network: nn.Module, name: str) -> None:
    """Fold the gates at `name`, if they have not been folded together with those of another site."""
    module = network.get_submodule(name)
    if isinstance(module, Follower):
        wrap_module(network, name, lambda _: fold_follower(module))


class _Trial:
    """The trial of places: the network with half of the rows at zero against the folded, narrower one."""

    def __init__(self, network: nn.Module, example: Inputs, channels: ChannelGroups) -> None:
        self._network = _noisy_copy(network)
        self._example = example
        self._channels = channels

    def exact_places(self, places: list[Place]) -> list[Place]:
        """The places that pass, found by halving."""
        if not places or self._is_exact(places):
            return places
        if len(places) == 1:
            return []
        half = len(places) // 2
        return self.exact_places(places[:half]) + self.exact_places(places[half:])

    @torch.no_grad()
    def _is_exact(self, places: list[Place]) -> bool:
        wide = copy_network(self._network)
        attach_compactors(wide, places)
        staying = {name: _forget_every_second(compactor) for name, compactor in find_compactors(wide).items()}
        try:
            with random_state(self._example.device):
                expected = output_leaves(self._example.clone()(wide))
            fold_network(wide, places, staying, self._channels)
            with random_state(self._example.device):
                outputs = output_leaves(self._example.clone()(wide))
        except (AttributeError, TypeError, RuntimeError):  # the forward pass needs more than calls of its modules
            return False
        return have_same_shapes(outputs, expected) and are_close(outputs, expected, TOLERANCE)


def _forget_every_second(compactor: Compactor) -> Tensor:
    """Add noise to a compactor so that it mixes channels, and silence every second row; returns the others."""
    shape = compactor.weight.shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.3 / shape[0] ** 0.5
    compactor.weight.add_(noise.to(compactor.weight))
    compactor.alive[1::2] = 0
    return torch.arange(0, shape[0], 2)


@torch.no_grad()
def _noisy_copy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode with noise on biases and running means, which may all be zero before training."""
    twin = copy_network(network).eval()
    generator = torch.Generator().manual_seed(0)
    for module in twin.modules():
        for name in ("bias", "running_mean"):
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator).to(tensor))
    return twin
