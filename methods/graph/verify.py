"""The trial of coupled groups: removing channels must have the same effect as masking them.

One copy of the network is narrowed. In a second copy all channels stay, but every consumer sees zeros in place of the
removed ones, and norms over channels (LayerNorm, GroupNorm) measure the remaining ones alone. Both copies must give the
same outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.base import copy_network
from methods.graph.call_numbers import ReplacedNumbers
from methods.graph.channels import Group, keep_channels, removed_channels
from methods.graph.culprits import Fault, give_up_groups
from methods.graph.flow.sizes import CallNumbers
from methods.graph.narrow import Conv, Norm, channels_of, narrow_module
from methods.graph.other_paths import describe_error, fault_on_other_paths
from models.execution.forward_hooks import module_path

# Outputs may differ by the order of summation only; a wrong channel shows as a difference of the size of the output.
TOLERANCE = 1e-3
DRAWS = 3
NEAR_ZERO = 0.05


def sound_groups(
    network: nn.Module, example: Tensor, groups: list[Group], numbers: CallNumbers
) -> tuple[list[Group], dict[str, str]]:
    """The groups that pass the trial together, and a reason for each that was given up.

    Args:
        numbers: of the network's code; those that it gets right by itself are dropped.
    """
    visible = _with_visible_factors(network)
    runs: list[dict[str, ReplacedNumbers]] = []

    def try_draws(some: Sequence[Group]) -> Fault | None:
        """Three draws of removed channels: with one, couplings that were missed slip through."""
        runs.clear()
        faults = (_try_groups(visible, example, some, draw, numbers, runs) for draw in range(DRAWS))
        return next((fault for fault in faults if fault is not None), None)

    passed = give_up_groups(groups, try_draws)
    numbers.keep_needed(runs)
    return passed


@torch.no_grad()
def _with_visible_factors(network: nn.Module) -> nn.Module:
    """A copy whose parameters near zero are not: a layer scale of 1e-6 would hide whatever goes wrong before it."""
    twin = copy_network(network).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        if parameter.is_floating_point() and parameter.numel():
            values = torch.rand(parameter.shape, generator=generator).to(parameter) + 0.5
            hidden = parameter.abs() < NEAR_ZERO
            # Weights of layers are small by right; scales and shifts are whole vectors.
            if parameter.squeeze().dim() <= 1:
                parameter[hidden] = values[hidden]
    return twin


def trial_channels(group: Group, number: int) -> Tensor:
    """Channels to keep in a trial, ascending: half or three quarters of every class, at random.

    Groups lose different channels, so that two groups whose coupling was missed fail when both are narrowed. Classes
    lose different positions, as they will under scores, so that classes that must lose the same ones (a half that
    gates the other) fail.
    """
    staying = []
    for c in range(group.classes):
        members = torch.where(group.partition == c)[0]
        gone = max(len(members) // (4 if number % 2 else 2), 1)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(number))
        shift = c * max(len(members) // group.classes, 1)
        staying.append(members[order.roll(shift)[gone:]])
    return torch.cat(staying).sort().values


@torch.no_grad()
def _try_groups(
    network: nn.Module,
    example: Tensor,
    groups: Sequence[Group],
    draw: int,
    numbers: CallNumbers,
    runs: list[dict[str, ReplacedNumbers]],
) -> Fault | None:
    staying = {group.name: trial_channels(group, number + draw) for number, group in enumerate(groups)}
    narrowed, masked = copy_network(network).eval(), copy_network(network).eval()
    inputs = example.to(next(network.parameters()).dtype)
    path: list[str] = []
    try:
        keep_channels(narrowed, groups, staying)
        runs.append(numbers.write_numbers(narrowed, staying))
        with module_path(narrowed, path):
            outputs = tree_leaves(narrowed(inputs))
    except Exception as error:  # whatever the user's forward pass raises, the group must stay dense
        reason = f"the network does not run without its channels ({describe_error(error)})"
        return Fault(reason, path[-1] if path else None)
    if draw == 0 and (other_fault := fault_on_other_paths(network, narrowed, example)):
        return Fault(other_fault)
    _mask_channels(masked, groups, staying)
    wanted = tree_leaves(masked(inputs))
    for output, whole in zip(outputs, wanted, strict=True):
        if output.shape != whole.shape:
            return Fault(f"removing its channels changes the network's output to {tuple(output.shape)}")
    if _all_close(outputs, wanted):
        return None
    # Channels that meet in a product of activations (queries and keys) have no consumer that could be masked.
    _empty_producers(masked, groups, staying)
    return None if _all_close(outputs, tree_leaves(masked(inputs))) else Fault(_why_different(masked, inputs))


def _all_close(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    pairs = zip(outputs, wanted, strict=True)
    return all(bool((output - whole).abs().max() <= TOLERANCE * whole.abs().max() + 1e-12) for output, whole in pairs)


def _why_different(network: nn.Module, inputs: Tensor) -> str:
    """Why the outputs of both copies differ; the cause may lie in the network itself."""
    first, second = tree_leaves(network(inputs)), tree_leaves(network(inputs))
    if not all(output.isfinite().all() for output in first):
        return "the network's outputs are not finite"
    if not all(map(torch.equal, first, second)):
        return "the network's outputs differ from call to call"
    return "removing its channels changes more than those channels"


def _mask_channels(network: nn.Module, groups: Sequence[Group], staying: dict[str, Tensor]) -> None:
    """Let every consumer see zeros, and norms over channels leave them out, where channels are not in `staying`."""
    modules = dict(network.named_modules())
    absent: dict[str, list[Tensor]] = {}
    for slots, removed in removed_channels(groups, staying):
        if slots.side == "in":
            _zero_inputs(modules[slots.name], removed)
        elif slots.dim is not None:
            _zero_slices(network, slots.name, slots.dim, removed)
        elif isinstance(modules.get(slots.name), (nn.LayerNorm, nn.GroupNorm)):
            absent.setdefault(slots.name, []).append(removed)
    for name, gone in absent.items():
        _mask_norm(modules[name], torch.cat(gone))


@torch.no_grad()
def _empty_producers(network: nn.Module, groups: Sequence[Group], staying: dict[str, Tensor]) -> None:
    """Let layers and norms make zeros where channels are not in `staying`."""
    modules = dict(network.named_modules())
    for slots, removed in removed_channels(groups, staying):
        module = modules.get(slots.name)
        if slots.side == "out" and isinstance(module, (Conv, nn.Linear, Norm)):
            for leaf in ("weight", "bias"):
                tensor = module._parameters.get(leaf)
                if tensor is not None:
                    dim = 1 if leaf == "weight" and getattr(module, "transposed", False) else 0
                    tensor.index_fill_(dim, removed.to(tensor.device), 0)


@torch.no_grad()
def _zero_slices(network: nn.Module, name: str, dim: int, gone: Tensor) -> None:
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    tensors[name].index_fill_(dim, gone.to(tensors[name].device), 0)


@torch.no_grad()
def _zero_inputs(module: nn.Module, gone: Tensor) -> None:
    plain = "weight" in module._parameters and type(module).forward.__module__.startswith("torch.nn.")
    if plain and isinstance(module, (Conv, nn.Linear)) and getattr(module, "groups", 1) == 1:
        # The same as inputs of zeros, also for code that uses the weight without calling the layer.
        module.weight.index_fill_(0 if getattr(module, "transposed", False) else 1, gone.to(module.weight.device), 0)
        return
    dim = -1 if isinstance(module, nn.Linear) else 1
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(dim, gone.to(inputs[0].device), 0),))


def _mask_norm(norm: nn.Module, gone: Tensor) -> None:
    """Let a norm over channels measure and normalise all channels but `gone`, whose outputs become zeros."""
    width = channels_of(norm, "out")
    stays = torch.ones(width, dtype=torch.bool)
    stays[gone] = False
    keep = stays.nonzero().flatten()
    small = copy_network(norm)
    narrow_module(small, "out", keep)

    def normalise_kept(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # A plain LayerNorm has its channels last; a GroupNorm and torchvision's LayerNorm2d have them second.
        dim = -1 if type(norm) is nn.LayerNorm or output.shape[1] != width else 1
        where = keep.to(output.device)
        return torch.zeros_like(output).index_copy(dim, where, small(inputs[0].index_select(dim, where)))

    norm.register_forward_hook(normalise_kept)
