"""Base of the methods that work layer by layer and can come second in a composition, on a narrowed network."""

from __future__ import annotations

import copy
from typing import Self

from torch import nn

from methods.base import Compressor
from methods.graph.removal import KeptChannels


class FollowingMethod(Compressor):
    """A method for the dense network, or for one that another method has narrowed (`bind_narrowed`)."""

    _wide: Self | None = None
    _kept_channels: KeptChannels | None = None
    """The channels of a narrowed network."""

    def bind_narrowed(self, network: nn.Module, channels: KeptChannels | None) -> Self:
        """The method for a narrowed network; it shares the measurements of the dense one."""
        twin = copy.copy(self)  # shallow, with what was computed and measured
        twin.network, twin._kept_channels, twin._wide = network, channels, self.whole_method
        return twin

    @property
    def whole_method(self) -> Self:
        """The method of the dense network, from which this one may be narrowed."""
        return self if self._wide is None else self._wide
