"""How much the network's outputs depend on each layer's outputs y: the second moment of gradients, G = E[Σₜ gₜ gₜᵀ].

A small change Δ of a layer's weights, whose inputs x have the second moment S, moves the network's outputs by about

    ½ tr(G Δ S Δᵀ)

in the measure of drift: Jensen-Shannon divergence of the classes' distributions, squared error relative to the variance
for other outputs (`models.tasks.outputs`). That is the Gauss-Newton approximation, with inputs and gradients taken as
independent of each other and positions t as independent among themselves (Martens and Grosse, ICML 2015, arXiv
1503.05671). g is the gradient of a log-likelihood whose labels are drawn from the network's own outputs, so that it
does not vanish on images that the network knows by heart (Kunstner et al., NeurIPS 2019, arXiv 1905.12558).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.graph.narrow import channels_of
from methods.moments.layer_outputs import output_rows
from models.execution.forward_hooks import forward_hooks
from models.execution.gradients import ForwardGuard, run_backward
from models.execution.random_state import random_state
from models.tasks.batches import count_inputs
from models.tasks.objective import Batch, Objective
from models.tasks.outputs import Logits, Output

DAMPING = 0.01  # of G, as a share of its mean diagonal: it is measured on a thousand draws


def measure_output_gradients(
    network: nn.Module, names: Iterable[str], batches: Iterable[Batch], objective: Objective
) -> dict[str, Tensor]:
    """G of the named layers, (N, N) float64 on the CPU; zero for layers that no output depends on.

    Layers whose gradients the network cuts off (`torch.no_grad` around a frozen part, `detach`) are left out. A task
    without outputs to compare gives the gradients of its own loss.

    Args:
        network: in evaluation mode; its parameters will all require gradients.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    names = list(names)
    layers = {name: network.get_submodule(name) for name in names}
    sums: dict[str, Tensor] = {}
    count, generator = 0, torch.Generator().manual_seed(0)
    guard, device = ForwardGuard(), next(network.parameters()).device
    hooks = [(layer, _watch_gradients(sums, name)) for name, layer in layers.items()]
    loaded = list(batches)
    for batch in loaded:
        inputs = count_inputs(batch)
        # A checkpointed part (`use_reentrant=True`) runs with gradients in the backward pass alone.
        with forward_hooks(after=hooks):
            with torch.enable_grad(), guard.forward(device):
                if objective.has_outputs:
                    loss = sampled_loss(objective.outputs(network, batch), inputs, generator)
                else:
                    loss = objective.calibration_loss(network, batch) * inputs
            run_backward(loss)
        count += inputs
        network.zero_grad(set_to_none=True)
    moments = {name: total / count for name, total in sums.items() if total.any()}
    silent = {name: layer for name, layer in layers.items() if name not in moments}
    for name in _unheard_layers(network, silent, loaded[0], objective) if silent else ():
        moments[name] = torch.zeros(2 * [channels_of(layers[name], "out")], dtype=torch.float64)
    return moments


@torch.no_grad()
def _unheard_layers(
    network: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, objective: Objective
) -> Collection[str]:
    """Those of the layers whose outputs make no difference to the network's."""

    def outputs_with_noise(disturbed: Collection[nn.Module]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)

        def add_noise(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            noise = torch.randn(output.shape, generator=generator).to(output)
            return output + (1 + output.abs().mean()) * noise

        device = next(network.parameters()).device
        with random_state(device, 0), forward_hooks(after=[(layer, add_noise) for layer in disturbed]):
            if not objective.has_outputs:
                return [objective.calibration_loss(network, batch)]
            outputs = objective.outputs(network, batch)
        return [output.scores if isinstance(output, Logits) else output for output in outputs]

    wanted = outputs_with_noise([])

    def are_unheard(disturbed: Collection[nn.Module]) -> bool:
        outputs = outputs_with_noise(disturbed)
        return all(torch.allclose(*pair, rtol=1e-3, atol=1e-6) for pair in zip(outputs, wanted, strict=True))

    if are_unheard(layers.values()):
        return layers.keys()
    return [name for name, layer in layers.items() if are_unheard([layer])]


def _watch_gradients(sums: dict[str, Tensor], name: str) -> Callable[[nn.Module, Sequence[object], Tensor], None]:
    def add_moment(layer: nn.Module, gradient: Tensor) -> None:
        rows = output_rows(layer, gradient.detach()).float()
        moment = (rows.mT @ rows).double().cpu()
        sums[name] = sums[name] + moment if name in sums else moment

    def watch_output(layer: nn.Module, _: Sequence[object], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: add_moment(layer, gradient))

    return watch_output


def sampled_loss(outputs: Sequence[Output], inputs: int, generator: torch.Generator) -> Tensor:
    """A random scalar; the expected product of its gradient with itself is the curvature of drift, summed over inputs.

    Args:
        outputs: of a batch.
        inputs: of that batch.
    """
    losses = []
    for output in outputs:
        if isinstance(output, Logits):
            # Drift is the mean over rows: of n rows of an input, each gives 1/n of the curvature. For close
            # distributions the Jensen-Shannon divergence is a quarter of Kullback and Leibler's, ⅛ tr(F δ δᵀ).
            rows = output.float().rows()
            labels = torch.multinomial(rows.detach().softmax(1).cpu(), 1, generator=generator)[:, 0].to(rows.device)
            share = math.sqrt(inputs / len(rows) / 4)
            losses.append(share * functional.cross_entropy(rows, labels, reduction="sum"))
        else:
            values = output.float()
            variance = values.detach().var(correction=0) if values.numel() > 1 else values.new_ones(())
            noise = torch.randn(values.shape, generator=generator).to(values.device)
            scale = (2 * inputs / values.numel() / torch.where(variance > 0, variance, 1.0)).sqrt()
            losses.append((scale * noise * values).sum())
    return torch.stack(losses).sum()


def metric_root(moment: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """H with Hᵀ H = G + damping · mean(diag G) · I, upper triangular, and H⁻¹, (N, N) float64.

    Any such H measures alike; Cholesky's takes a fraction of the time of the symmetric one. For a moment of zeros it is
    the identity.
    """
    eye = torch.eye(len(moment), dtype=torch.float64)
    size = float(moment.diagonal().mean())
    if not size > 0:
        return eye, eye
    root = torch.linalg.cholesky(moment / size + damping * eye).mT.contiguous()
    return math.sqrt(size) * root, torch.linalg.solve_triangular(root, eye, upper=True) / math.sqrt(size)
