"""A network with plain layers in the place of those that compute their weight or hold several in one tensor."""

from __future__ import annotations

from torch import nn

from methods.graph.plain_attention import replace_attention, replaceable_attention
from methods.graph.plain_layers import computed_weights, replace_computed
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write


class PlainForm:
    """Layers that compute their weight become plain ones, and attention modules linear layers, wherever that is exact.

    Attributes:
        network: the one given, or a copy in which layers are replaced.
    """

    def __init__(self, network: nn.Module, example: Inputs) -> None:
        self._computed = computed_weights(network, example)
        self._attention = replaceable_attention(network, example)
        self.network = network
        if self._computed or self._attention:
            self.network = copy_on_write(network)
            self.replace_layers(self.network)

    def replace_layers(self, network: nn.Module) -> None:
        """Do the same in a copy of the network, in place."""
        replace_computed(network, self._computed)
        replace_attention(network, self._attention)
