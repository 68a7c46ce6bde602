"""Outputs of a narrowed and of a masked network: whether they agree, and what else could make them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.graph.channels import Group, keep_channels
from methods.graph.flow.find import TracedGroups
from methods.graph.masking import masked_outputs
from methods.graph.trace import drop_caches
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.random_state import random_state
from models.execution.tensor_leaves import output_leaves

# Outputs may differ by the order of summation only, relative to the largest; a wrong channel shows far above that.
TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3}
MORE_THAN_CHANNELS = "removing its channels changes more than those channels"
OTHER_SHAPES = "removing its channels changes the shapes of the network's outputs"


@dataclass(frozen=True)
class TriedRemoval:
    """Channels that leave a network on trial: all of the groups but those in `staying`."""

    network: nn.Module
    groups: Sequence[Group]
    staying: Mapping[str, Tensor]
    traced: TracedGroups

    def narrow_copy(self) -> nn.Module:
        """A narrowed copy, whose code has its own numbers yet."""
        narrowed = copy_on_write(self.network).eval()
        keep_channels(narrowed, self.groups, self.staying)
        drop_caches(narrowed)
        return narrowed

    @torch.no_grad()
    def run_masked(self, inputs: Inputs, seed: int, *, training: bool = False) -> list[Tensor]:
        """The outputs of the network with the channels masked."""
        with random_state(inputs.device, seed):
            return masked_outputs(self.network, self.groups, self.staying, inputs, self.traced, training=training)


def have_same_shapes(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return [output.shape for output in outputs] == [output.shape for output in wanted]


def are_close(outputs: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float | None = None) -> bool:
    """Whether outputs of the same shapes are the wanted ones but for rounding."""
    return all(_is_close(output, other, tolerance) for output, other in zip(outputs, wanted, strict=True))


def _is_close(output: Tensor, wanted: Tensor, tolerance: float | None) -> bool:
    """NaN never is."""
    if not wanted.numel():
        return True
    if not wanted.is_floating_point():
        return torch.equal(output, wanted)
    allowed = tolerance or TOLERANCES.get(wanted.dtype, TOLERANCES[torch.float32])
    floor = 0.0 if tolerance else 1e-12
    return bool((output - wanted).abs().max() <= allowed * wanted.abs().max() + floor)


def why_different(network: nn.Module, inputs: Inputs) -> str:
    """Why the outputs of both copies differ; the cause may lie in the network itself."""
    twin = copy_on_write(network)
    runs = []
    for runner, seed in ((twin, 0), (copy_on_write(network), 1), (twin, 0)):
        with random_state(inputs.device, seed):
            runs.append(output_leaves(inputs.clone()(runner)))
    first, other_seed, again = runs
    if not all(output.isfinite().all() for output in first):
        return "the network's outputs are not finite"
    if not all(map(torch.equal, first, other_seed)):
        return "the network's outputs are random, and without its channels other numbers are drawn"
    if not all(map(torch.equal, first, again)):
        return "the network's outputs depend on what it was given before"
    return MORE_THAN_CHANNELS
