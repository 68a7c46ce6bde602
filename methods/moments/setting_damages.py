"""How far each setting of a method moves the network's outputs, layer by layer, without a scan of whole networks.

A layer's compressed form reads what the dense layer reads; with e the difference of their outputs y,

    damage = ½ E[(e − E e)ᵀ G (e − E e)]

in the measure of drift (`output_gradients.py`), of which ½ tr(G Δ S Δᵀ) is the case of a changed weight. The mean of e
counts where no batch norm, which is measured anew, takes it away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, copy_network
from methods.moments.layer_inputs import has_batch_norm
from methods.moments.layer_outputs import output_rows
from methods.moments.output_gradients import DAMPING, measure_output_gradients, metric_root
from models.execution.forward_hooks import forward_hooks
from models.tasks.batches import count_inputs
from models.tasks.objective import Batch, Objective

_INPUTS = 128  # on which errors are measured, in whole batches: each has many positions, and each setting takes a pass


def measure_damages(
    method: Compressor, known: Collection[str], batches: Iterable[Batch], objective: Objective
) -> dict[str, tuple[float, ...]]:
    """Site -> the damage of each of its settings alone, dense first; it never falls.

    Sites with a layer from which the network cuts gradients off are left out: nothing is known of them.

    Args:
        method: whose sites' layers stay where they are when they are compressed.
        known: sites that are left out.
    """
    sites = [site for site in method.sites if site.name not in known]
    if not sites:
        return {}
    loaded, twin = list(batches), copy_network(method.network).eval()
    names = [name for site in sites for name in site.layers]
    gradients = measure_output_gradients(twin, names, loaded, objective)
    sites = [site for site in sites if gradients.keys() >= set(site.layers)]
    # Gradients of zero: no output depends on the layer, which is then no loss.
    roots = {name: metric_root(moment, DAMPING)[0].float() for name, moment in gradients.items() if moment.any()}
    damages, few = {site.name: [0.0] for site in sites}, _first_inputs(loaded)
    for level in range(1, max((len(site.settings) for site in sites), default=0)):
        deep = [site for site in sites if level < len(site.settings)]
        small = method.compress(Allocation({site.name: site.settings[level] for site in deep})).eval()
        layers = {name: small.get_submodule(name) for site in deep for name in site.layers if name in roots}
        errors = _measure_errors(twin, layers, roots, few, objective)
        for site in deep:
            damages[site.name].append(sum(errors.get(name, 0.0) for name in site.layers))
    return {name: tuple(np.maximum.accumulate(values).tolist()) for name, values in damages.items()}


def _first_inputs(batches: Sequence[Batch]) -> Sequence[Batch]:
    """The first batches, with `_INPUTS` inputs if there are so many."""
    counts = np.cumsum([count_inputs(batch) for batch in batches])
    return batches[: 1 + int(np.searchsorted(counts, _INPUTS))]


@torch.no_grad()
def _measure_errors(
    network: nn.Module,
    layers: dict[str, nn.Module],
    roots: dict[str, Tensor],
    batches: Iterable[Batch],
    objective: Objective,
) -> dict[str, float]:
    """Layer -> its damage when the module in `layers` takes its place; `roots`: H with Hᵀ H = G, (N, N)."""
    errors = {name: _Error(layer, roots[name]) for name, layer in layers.items()}
    hooks = [(network.get_submodule(name), error.add_outputs) for name, error in errors.items()]
    with forward_hooks(after=hooks):
        for batch in batches:
            objective.forward(network, batch)
    centred = has_batch_norm(network)
    return {name: error.damage(centred=centred) for name, error in errors.items()}


class _Error:
    """Running sums of the error of a layer's outputs, in the metric of gradients."""

    def __init__(self, layer: nn.Module, root: Tensor) -> None:
        self._layer, self._root = layer, root
        self._count, self._squares = 0, 0.0
        self._total = torch.zeros(len(root), dtype=torch.float64)

    def add_outputs(self, dense: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        error = output_rows(dense, self._layer(*inputs) - output).float()
        weighted = error @ self._root.mT.to(error.device)
        self._count += len(weighted)
        self._squares += float(weighted.square().sum(dtype=torch.float64))
        self._total += weighted.sum(0, dtype=torch.float64).cpu()

    def damage(self, *, centred: bool) -> float:
        if not self._count:
            return 0.0
        mean = self._total / self._count if centred else torch.zeros(())
        return max(self._squares / self._count - float(mean.square().sum()), 0.0) / 2
