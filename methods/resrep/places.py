"""Where ResRep's compactors can stand in a network, and how a whole network is folded.

The compactor follows the first convolution that writes a site's channels; further writers are gated by it
(`Follower`). A place is believed only after a trial, on a copy with noisy norms and biases: with half of its rows at
zero, the network must compute what the folded, narrower one does. It fails where something writes the channels that
cannot be gated (a convolution without a norm in a residual stream, a padded shortcut) or where a norm mixes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.channel_sites import ChannelGroups
from methods.graph.channels import LAYERS, Group, Slots
from methods.graph.narrow import is_depthwise
from methods.resrep.compactor import (
    BatchNorm,
    Compacted,
    Compactor,
    Follower,
    find_compactors,
    fold,
    fold_follower,
    next_norms,
    restore_norm,
    wrap_module,
)

# Both networks do the same sums in another order; a channel that is not silent shows at the size of the outputs.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Place:
    """A compactor's place: after `norm`, or straight after `conv` where there is none."""

    site: str
    position: int  # of its group among all groups
    conv: str
    norm: str | None
    followers: tuple[Slots, ...]
    params_added: int  # per kept row of a narrowed site: its new bias less the parameters of its norm
    shared: bool  # several layers write its channels: a residual stream

    @property
    def host(self) -> str:
        return self.norm or self.conv


def find_places(network: nn.Module, example: Tensor, channels: ChannelGroups) -> tuple[list[Place], dict[str, str]]:
    """A place for every group that can have one, in their order, and the reasons of those that cannot."""
    norms = next_norms(network, example)
    reasons: dict[str, str] = {}
    sure: list[Place] = []
    doubtful: list[Place] = []
    for position, group in enumerate(channels.groups):
        reason = _unfit(network, group)
        if reason:
            reasons[group.name] = reason
            continue
        place = _place(network, group, position, norms.get(group.name))
        (doubtful if place.shared else sure).append(place)
    exact = _exact_places(network, example, channels, sure, doubtful)
    for place in sure + doubtful:
        if place.site not in exact:
            reasons[place.site] = _reason(network, channels.groups[place.position])
    return sorted(exact.values(), key=lambda place: place.position), reasons


def _exact_places(
    network: nn.Module, example: Tensor, channels: ChannelGroups, sure: list[Place], doubtful: list[Place]
) -> dict[str, Place]:
    """The places that pass their trial, by site; those that need not be doubted are tried together."""
    trial = _Trial(network, example, channels)
    exact = {place.site: place for place in trial.survivors(sure)}
    for place in doubtful:
        exact |= {each.site: each for each in trial.survivors([place])}
    for place in sure:  # the convolution's own output may be read elsewhere, too: not behind its norm, then
        if place.norm and place.site not in exact:
            bare = _place(network, channels.groups[place.position], place.position, None)
            exact |= {each.site: each for each in trial.survivors([bare])}
    return exact


def _unfit(network: nn.Module, group: Group) -> str | None:
    """Why a group cannot have a compactor, as far as its modules tell."""
    conv = network.get_submodule(group.name)
    if type(conv) is not nn.Conv2d or conv.groups != 1:
        return f"a compactor follows ungrouped 2-D convolutions, not a {_kind(conv)}"
    if len(group.partition.unique()) > 1:
        return "its channels must go in balanced classes, which compactors do not know"
    own = [each for each in group.slots if each.name == group.name and each.side == "out"]
    straight = torch.arange(group.channels)
    if len(own) != 1 or not (torch.equal(own[0].index, straight) and torch.equal(own[0].channel, straight)):
        return "its channels are not those of one convolution"
    return None


def _kind(module: nn.Module) -> str:
    grouped = "grouped " if getattr(module, "groups", 1) != 1 else ""
    return f"{grouped}{type(module).__name__}"


def _writers(network: nn.Module, group: Group) -> int:
    """How many layers compute the group's channels from others."""
    names = {each.name for each in group.slots if each.side == "out" and each.dim is None}
    modules = [network.get_submodule(name) for name in names]
    return sum(isinstance(module, LAYERS) and not is_depthwise(module) for module in modules)


def _reason(network: nn.Module, group: Group) -> str:
    writers = _writers(network, group)
    if writers > 1:
        return f"{writers} layers write its channels, and not everything that they write can be silenced"
    return "a forgotten channel does not stay silent up to the layers that read it"


def _place(network: nn.Module, group: Group, position: int, norm: str | None) -> Place:
    followers = tuple(
        each
        for each in group.slots
        if each.side == "out" and each.dim is None and each.name not in (group.name, norm)
        and _follows(network.get_submodule(each.name))
    )  # fmt: skip
    added = 0
    if norm is not None:
        parameters = sum(1 for _ in network.get_submodule(norm).parameters(recurse=False))
        added = int(network.get_submodule(group.name).bias is None) - parameters
    return Place(group.name, position, group.name, norm, followers, added, _writers(network, group) > 1)


def _follows(module: nn.Module) -> bool:
    """Whether a module works channel by channel and may make something of nothing."""
    return is_depthwise(module) or (isinstance(module, BatchNorm) and module.affine)


def attach_compactors(network: nn.Module, places: Sequence[Place]) -> None:
    """Put compactors, all identities, at `places`; in place."""
    weights = {place.site: network.get_submodule(place.conv).weight for place in places}
    for place in places:
        weight = weights[place.site]
        assert isinstance(weight, Tensor)
        compactor = Compactor(place.site, weight)
        wrap_module(network, place.host, partial(Compacted, compactor=compactor))
        for each in place.followers:
            gate = partial(Follower, compactor=compactor, index=each.index, channel=each.channel)
            wrap_module(network, each.name, gate)


def fold_network(
    network: nn.Module, places: Sequence[Place], kept: Mapping[str, Tensor], channels: ChannelGroups
) -> None:
    """Fold every compactor of `network` and narrow its site to the rows `kept` (ascending); in place."""
    present = find_compactors(network)
    places = [place for place in places if place.site in present]
    for place in places:  # gates read their compactors, so they go first
        for each in place.followers:
            _unwrap_follower(network, each.name)
    narrowed = [place for place in places if len(kept[place.site]) < len(present[place.site].alive)]
    for place in places:
        wrap_module(network, place.host, _inner)
        conv = network.get_submodule(place.conv)
        norm = None if place.norm is None else network.get_submodule(place.norm)
        assert isinstance(conv, nn.Conv2d)
        assert norm is None or isinstance(norm, BatchNorm)
        biased = conv.bias is not None
        fold(conv, norm, present[place.site].rows())
        if norm is not None and place not in narrowed:
            restore_norm(conv, norm, biased)
    channels.narrow(network, {place.site: kept[place.site] for place in narrowed})
    for place in narrowed:
        if place.norm is not None:
            wrap_module(network, place.norm, lambda norm: nn.Identity().train(norm.training))


def _inner(module: nn.Module) -> nn.Module:
    assert isinstance(module, Compacted)
    return module.inner


def _unwrap_follower(network: nn.Module, name: str) -> None:
    """Fold the gates at `name`; those of another site may have gone together with them already."""
    module = network.get_submodule(name)
    if isinstance(module, Follower):
        wrap_module(network, name, lambda _: fold_follower(module))


class _Trial:
    """Tells whether places are exact: unfolded, with half of their rows at zero, against folded and narrower."""

    def __init__(self, network: nn.Module, example: Tensor, channels: ChannelGroups) -> None:
        self._network = _noisy(network)
        self._example = example
        self._channels = channels

    def survivors(self, places: list[Place]) -> list[Place]:
        """Those that are exact, found by halving."""
        if not places or self._exact(places):
            return places
        if len(places) == 1:
            return []
        half = len(places) // 2
        return self.survivors(places[:half]) + self.survivors(places[half:])

    @torch.no_grad()
    def _exact(self, places: list[Place]) -> bool:
        wide = copy_network(self._network)
        attach_compactors(wide, places)
        kept = {name: _forget_every_second(compactor) for name, compactor in find_compactors(wide).items()}
        try:
            expected = wide(self._example)
            fold_network(wide, places, kept, self._channels)
            found = wide(self._example)
        except (AttributeError, TypeError, RuntimeError):  # a forward pass that asks more of its modules than a call
            return False
        error = (found - expected).abs().max()
        return bool(error <= TOLERANCE * expected.abs().max())


def _forget_every_second(compactor: Compactor) -> Tensor:
    """Give a compactor some mixing and silence half of its rows; returns the others."""
    shape = compactor.weight.shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.3 / shape[0] ** 0.5
    compactor.weight.add_(noise.to(compactor.weight))
    compactor.alive[1::2] = 0
    return torch.arange(0, shape[0], 2)


@torch.no_grad()
def _noisy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose biases and running means are nowhere zero, as they may be before training."""
    twin = copy_network(network).eval()
    generator = torch.Generator().manual_seed(0)
    for module in twin.modules():
        for name in ("bias", "running_mean"):
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator).to(tensor))
    return twin
