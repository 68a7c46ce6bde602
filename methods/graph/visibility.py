"""Whether a trial can see a group at all: outputs that do not depend on its channels are no evidence.

A gate that is zero, an attribute of the code at that, or a result that is thrown away hide whatever goes wrong behind
them: narrowed and masked network give the same outputs because both give those of the dense one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from methods.graph.channels import Group, Slots
from methods.graph.narrow import Norm, layer_dims
from methods.graph.trace import number_type
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import output_leaves

UNSEEN = "no output depends on its channels, so that no trial can tell what they are coupled with"
WHOLE_NUMBERS = "the network returns whole numbers alone, and none of them changes without its channels"
NEAR_ZERO = 0.05
ALIVE = 0.25  # added to biases: a fraction of the deviation that a norm gives its outputs
# Times the tolerance of a trial: an estimate by gradients may be off, but not by that much. In single precision a
# hundred times would be a tenth of the outputs, which hardly any group makes alone.
CLEAR = {torch.float64: 100, torch.float32: 10}


Rows = dict[tuple[int, int], Tensor | None]
"""A parameter's id and one of its dimensions -> how much the outputs change, to first order, if one index vanishes."""


@torch.no_grad()
def with_visible_factors(network: nn.Module) -> nn.Module:
    """A copy in which no factor hides a fault.

    A layer scale of 1e-6 or a last convolution of zeros hides whatever goes wrong before it; slopes, scales and
    statistics that are still the same for all channels hide that they go with the wrong ones; and a rectifier that is
    dead on noise (the few channels of a squeeze) hides what made its inputs, so that biases become positive.
    """
    twin = copy_on_write(network).eval()
    generator = torch.Generator().manual_seed(0)
    statistics = {id(tensor) for module in twin.modules() if isinstance(module, Norm) for tensor in module.buffers()}
    # Of other buffers only gates at zero matter; a mask or a grid of places has more dimensions.
    gates = {id(tensor) for tensor in twin.buffers() if tensor.squeeze().dim() <= 1 and not tensor.any()}
    buffers = [tensor for tensor in twin.buffers() if id(tensor) in statistics | gates]
    biases = {id(tensor) for name, tensor in twin.named_parameters() if name.endswith("bias")}
    for tensor in [*twin.parameters(), *buffers]:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.squeeze().dim() <= 1:
            factors = torch.rand(tensor.shape, generator=generator).to(tensor) + 0.5
            tensor.copy_(torch.where(tensor.abs() < NEAR_ZERO, factors, tensor * factors))
            if id(tensor) in biases:
                tensor.abs_().add_(ALIVE)
        elif float(tensor.abs().max()) < NEAR_ZERO**2:  # weights are small by right, but not all of them
            fan_in = tensor.numel() // tensor.shape[0]
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
    return twin


@torch.no_grad()
def in_double_precision(network: nn.Module, example: Inputs) -> nn.Module:
    """The network in double precision, where faults show that rounding hides; as it is if it does not run so."""
    try:
        twin = copy_on_write(network).double()
        example.cast(torch.float64)(copy_on_write(twin))
    except Exception:  # the user's code may hold a type
        return network
    return twin


def unseen_groups(network: nn.Module, inputs: Inputs, groups: Sequence[Group], tolerance: float) -> dict[str, float]:
    """The groups of which gradients do not show that the outputs depend on their channels, each with its effect.

    One pass backward tells for all groups; those that it leaves in doubt have to be masked one by one.
    """
    twin = copy_on_write(network)
    modules = dict(twin.named_modules())
    made = [(group, slots) for group in groups for slots in group.slots if slots.side == "out" and len(slots.index)]
    held = [(group, slots, *found) for group, slots in made if (found := _parameter_at(modules, slots)) is not None]
    rows: Rows = {(id(parameter), dim): None for *_, parameter, dim in held}
    try:
        largest = _run_backward(twin, inputs, rows)
    except Exception:  # nothing that has gradients, or a custom function without any
        return {group.name: 0.0 for group in groups}
    effects = {group.name: 0.0 for group in groups}
    for group, slots, parameter, dim in held:
        effect = rows[id(parameter), dim]
        if effect is not None and int(slots.index.max()) < len(effect):
            effects[group.name] = max(effects[group.name], float(effect[slots.index.to(effect.device)].max()))
    clear = CLEAR[number_type(network)] * tolerance * largest
    return {name: effect for name, effect in effects.items() if not effect > clear}


def _parameter_at(modules: Mapping[str, nn.Module], slots: Slots) -> tuple[Tensor, int] | None:
    """The parameter that makes a group's channels, and the dimension along which they lie, if there is one."""
    owner, _, leaf = (slots.name if slots.dim is not None else f"{slots.name}.weight").rpartition(".")
    parameter = modules[owner]._parameters.get(leaf)
    if parameter is None or not parameter.dim():
        return None
    return parameter, layer_dims(modules[slots.name])[0] if slots.dim is None else slots.dim


@torch.enable_grad()
def _run_backward(network: nn.Module, inputs: Inputs, rows: Rows) -> float:
    """Fill in the effects of all rows; the largest output.

    Each gradient is read as soon as it is there: those of all parameters at once need as much memory as the network.
    """

    def note_effects(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad, None
        for dim in (dim for number, dim in rows if number == id(parameter)):
            changes = (parameter.detach() * gradient).abs().movedim(dim, 0)
            before = rows[id(parameter), dim]
            effects = changes.reshape(len(changes), -1).sum(1)
            rows[id(parameter), dim] = effects if before is None else before + effects

    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(note_effects)
    outputs = [output for output in output_leaves(inputs.clone()(network)) if output.requires_grad]
    generator = torch.Generator().manual_seed(0)
    # Random weights, so that outputs which always sum to one (softmax) do not hide what changes them.
    weights = [torch.randn(output.shape, generator=generator).to(output) for output in outputs]
    sums = [(output * weight).sum() for output, weight in zip(outputs, weights, strict=True)]
    torch.stack(sums).sum().backward()
    return max(float(output.detach().abs().max()) for output in outputs)


def relative_effect(dense: Sequence[Tensor], masked: Sequence[Tensor]) -> float:
    """By how much masking changes the outputs, relative to the largest entry of each."""
    effect = 0.0
    for output, other in zip(dense, masked, strict=True):
        if not output.is_floating_point():
            effect = max(effect, float(not torch.equal(output, other)))
        elif output.numel() and float(output.abs().max()):
            effect = max(effect, float((output - other).abs().max() / output.abs().max()))
    return effect
