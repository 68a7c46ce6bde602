"""One trial of coupled groups: a copy of the network is narrowed, another one masked; both must give the same outputs.

Which channels go is drawn at random, and drawn anew for each of `DRAWS` trials.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn

from methods.graph.channels import Group, keep_channels
from methods.graph.culprits import Fault
from methods.graph.flow.find import TracedGroups
from methods.graph.masking import masked_outputs
from methods.graph.other_inputs import OtherInputs
from methods.graph.other_paths import describe_failure, fault_on_other_paths
from methods.graph.replaced_numbers import ReplacedNumbers
from methods.graph.trace import applied_flops, count_params, drop_caches, fitting_inputs
from methods.graph.width_cost import WidthCost
from models.execution.forward_hooks import module_path
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import output_leaves

# Outputs may differ by the order of summation only, relative to the largest; a wrong channel shows far above that.
TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3}
DRAWS = 3
MORE_THAN_CHANNELS = "removing its channels changes more than those channels"
NOT_MASKED = "the network does not run with its channels masked, so that no trial can tell what it should return"


@torch.no_grad()
def run_masked(
    network: nn.Module,
    groups: Sequence[Group],
    staying: Mapping[str, Tensor],
    inputs: Tensor,
    traced: TracedGroups,
    seed: int,
) -> list[Tensor]:
    with random_state(inputs, seed):
        return masked_outputs(network, groups, staying, inputs, traced)


@contextmanager
def random_state(inputs: Tensor, seed: int) -> Iterator[None]:
    """The same random numbers for every run with this seed: a network may draw noise in evaluation too."""
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        torch.manual_seed(seed)
        yield


def trial_channels(group: Group, number: int, draw: int, *, wide: bool = False) -> Tensor:
    """Channels to keep in a trial, ascending; a third of every class or somewhat more goes, at random.

    Each channel goes in one of the draws at least: one that plays a part of its own is not missed. Groups lose
    different channels, so that two groups whose coupling was missed fail when both are narrowed. Over the
    draws they lose different numbers of them, so that one's width is not taken for the other's. Classes lose different
    positions, as they will under scores, so that classes that must lose the same ones (a half that gates the other)
    fail.

    Args:
        number: of the group, among those that are tried.
        wide: one channel of every class goes, for code that does not run below some width.
    """
    staying = []
    for c in range(group.classes):
        members = torch.where(group.partition == c)[0]
        fewest = 1 if wide else -(-len(members) // DRAWS)
        choices = 1 if wide else min(len(members) // 4, len(members) - 1 - fewest) + 1
        # The digits of the group's number: two groups of as many channels differ in one of the draws.
        gone = fewest + (number // choices**draw + draw) % choices
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(number))
        shift = c * max(len(members) // group.classes, 1) - draw * fewest
        staying.append(members[order.roll(shift)[gone:]])
    return torch.cat(staying).sort().values


@torch.no_grad()
def try_draw(
    network: nn.Module,
    example: Tensor,
    groups: Sequence[Group],
    draw: int,
    traced: TracedGroups,
    runs: list[dict[str, ReplacedNumbers]],
    tolerance: float | None = None,
    wide: Collection[str] = (),
    other_inputs: Sequence[OtherInputs] = (),
) -> Fault | None:
    """Why a draw fails, if it does.

    Args:
        runs: gets the numbers in the code of the narrowed copy.
        wide: groups that are tried with one channel less.
        other_inputs: compared too, in the first draw.
    """
    staying = {
        group.name: trial_channels(group, number, draw, wide=group.name in wide) for number, group in enumerate(groups)
    }
    narrowed = copy_on_write(network).eval()
    inputs = fitting_inputs(network, example)
    path: list[str] = []
    try:
        keep_channels(narrowed, groups, staying)
        drop_caches(narrowed)
        with module_path(narrowed, path):
            runs.append(traced.numbers.write_numbers(narrowed, staying, inputs))
            with random_state(inputs, draw):
                outputs = output_leaves(narrowed(inputs.clone()))
    except Exception as error:  # whatever the user's forward pass raises, the group must stay dense
        reason = f"without its channels, {describe_failure(error, path)}"
        return Fault(reason, path[-1] if path else None)
    for written in runs[-1].values():
        if code := written.find_ambiguous_code():
            return Fault(f"calls in {code} cannot be told apart in another order, and need different numbers")
    if draw == 0 and tolerance is None and (other_fault := fault_on_other_paths(network, narrowed, inputs)):
        return Fault(other_fault)
    try:
        wanted = run_masked(network, groups, staying, inputs, traced, draw)
    except Exception:  # an operator that takes zeros or a part of the channels amiss: nothing to compare with
        return Fault(NOT_MASKED)
    if [output.shape for output in outputs] != [output.shape for output in wanted]:
        return Fault("removing its channels changes the shapes of the network's outputs")
    if not all(_is_close(output, other, tolerance) for output, other in zip(outputs, wanted, strict=True)):
        return Fault(_why_different(network, inputs))
    return _try_other_inputs(network, narrowed, groups, staying, other_inputs if draw == 0 else (), traced)


def _try_other_inputs(
    network: nn.Module,
    narrowed: nn.Module,
    groups: Sequence[Group],
    staying: Mapping[str, Tensor],
    other_inputs: Sequence[OtherInputs],
    traced: TracedGroups,
) -> Fault | None:
    """Code that other inputs run must not be wrong unnoticed; an error is noticed."""
    for other in other_inputs:
        with suppress(Exception):
            with random_state(other.images, 0):
                outputs = output_leaves(narrowed(other.images.clone()))
            wanted = run_masked(network, groups, staying, other.images, traced, 0)
            shapes_agree = [output.shape for output in outputs] == [output.shape for output in wanted]
            if shapes_agree and all(map(_is_close, outputs, wanted)):
                continue
            # Random outputs, or none that are finite, are no evidence here: the example has passed.
            if _why_different(network, other.images) == MORE_THAN_CHANNELS:
                return Fault(f"{MORE_THAN_CHANNELS} in {other.kind}")
    return None


def _is_close(output: Tensor, wanted: Tensor, tolerance: float | None = None) -> bool:
    """Whether an output is the wanted one but for rounding; NaN never is."""
    if not wanted.numel():
        return True
    if not wanted.is_floating_point():
        return torch.equal(output, wanted)
    allowed = tolerance or TOLERANCES.get(wanted.dtype, TOLERANCES[torch.float32])
    floor = 0.0 if tolerance else 1e-12
    return bool((output - wanted).abs().max() <= allowed * wanted.abs().max() + floor)


def try_cost(
    network: nn.Module,
    example: Tensor,
    groups: Sequence[Group],
    traced: TracedGroups,
    dense_flops: int,
    wide: Collection[str] = (),
) -> Fault | None:
    """What the cost model says of a narrowed network must be what is counted there.

    A product over a single channel may be no product any more (einsum): `least_widths` keeps more there.
    """
    staying = {
        group.name: trial_channels(group, number, 0, wide=group.name in wide) for number, group in enumerate(groups)
    }
    cost = WidthCost(network, groups, [[group.channels] for group in groups], traced.products)
    narrowed = copy_on_write(network)
    keep_channels(narrowed, groups, staying)
    drop_caches(narrowed)
    traced.numbers.write_numbers(narrowed, staying, example)
    predicted = cost.of_widths(np.array([[len(staying[group.name]) for group in groups]], dtype=np.float64))
    if int(predicted.params[0]) != count_params(narrowed):
        return Fault("the parameters that go with its channels cannot be told from the widths of its layers")
    # Differences: what the dense network has in no layer's positions is not the groups' doing.
    if cost.dense.flops - int(predicted.flops[0]) != dense_flops - applied_flops(narrowed, example):
        return Fault("the FLOPs that go with its channels cannot be told from the widths of its layers")
    return None


def _why_different(network: nn.Module, inputs: Tensor) -> str:
    """Why the outputs of both copies differ; the cause may lie in the network itself."""
    twin = copy_on_write(network)
    runs = []
    for runner, seed in ((twin, 0), (copy_on_write(network), 1), (twin, 0)):
        with random_state(inputs, seed):
            runs.append(output_leaves(runner(inputs.clone())))
    first, other_seed, again = runs
    if not all(output.isfinite().all() for output in first):
        return "the network's outputs are not finite"
    if not all(map(torch.equal, first, other_seed)):
        return "the network's outputs are random, and without its channels other numbers are drawn"
    if not all(map(torch.equal, first, again)):
        return "the network's outputs depend on what it was given before"
    return MORE_THAN_CHANNELS
