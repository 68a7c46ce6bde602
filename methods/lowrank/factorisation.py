"""`svd` and `tucker`: layers as thinner ones along the directions that their inputs use and that the outputs need.

The directions are those of the dense network on a few batches (`decomposition.py`). A site is a layer, a setting its
ranks. No channels are coupled, so that this works wherever a layer is called as a module, and what comes of it are
plain layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import DENSE, Allocation, Cost, MethodInfo, Setting, Site, Tuning, copy_network
from methods.following import FollowingMethod
from methods.graph.narrow import Conv, channels_of, replace_module
from methods.graph.plain_form import PlainForm
from methods.graph.removal import Change, RemovalOrder
from methods.graph.torch_layers import taps_of
from methods.lowrank.decomposition import Decomposition, Factors
from methods.lowrank.factored_layer import factor_layer, outline_layer, weight_by_output, why_not_plain
from methods.lowrank.factored_rates import FactoredTuning
from methods.lowrank.plain_layers import measure_shapes, unreplaceable_layers
from methods.lowrank.rank_cost import RankedLayer, RanksChange
from methods.lowrank.rank_widths import RankedCost
from methods.lowrank.ranks import LayerShape, Ranks, ranks_up_to, undominated_ranks
from methods.moments.layer_inputs import Moments, has_measurable_inputs, measure_moments
from methods.moments.layer_outputs import measure_outputs
from methods.moments.output_gradients import DAMPING, measure_output_gradients, metric_root
from methods.tables.table_cost import falling_settings, network_cost, subtract_costs
from models.errors import UserError
from models.execution.inputs import Example, Inputs
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective

_IN_RANKS = 32  # tried of a layer: each needs the eigenvalues of an N × N matrix

TriedRanks = Callable[[nn.Module, LayerShape, int], tuple[Sequence[int], Sequence[int]]]
"""A layer, and what ranks are multiples of -> the ranks of its inputs and of its outputs that settings combine."""


class Factorisation(FollowingMethod):
    """One site per plain layer. Before `calibrate`, all directions of inputs and outputs count alike.

    Attributes:
        network: with plain layers in the place of attention modules and of those that compute their weight.
    """

    saves_nothing = "no ranks make it cheaper"

    def __init__(
        self,
        info: MethodInfo,
        tried_ranks: TriedRanks,
        network: nn.Module,
        example: Example,
        options: Mapping[str, Any],
    ) -> None:
        network = PlainForm(network, Inputs.of(example)).network
        super().__init__(network, example, options)
        if not isinstance(options["multiple"], int) or options["multiple"] < 1:
            raise UserError(f"{info.name} needs multiple >= 1, a whole number, not {options['multiple']}")
        self.info, self._tried_ranks = info, tried_ranks
        failing = unreplaceable_layers(network, example, self._names)
        self._names = [name for name in self._names if name not in failing]
        self._left_dense |= dict.fromkeys(failing, "the network's code needs the layer itself, its weight for instance")
        self._shapes = measure_shapes(network, example, self._uses)
        self._moments: dict[str, Moments] = {}
        # Of layers that read too many inputs for their second moment: these have one projection, that of the outputs.
        self._output_moments: dict[str, Moments] = {}
        self._gradients: dict[str, Tensor] = {}

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:
        """Measure inputs and output gradients of all layers that can be taken apart."""
        loaded, twin = list(batches), copy_network(self.network).eval()
        wide = [name for name in self._names if self._reads_too_much(name)]
        self._moments = measure_moments(twin, [name for name in self._names if name not in wide], loaded, objective)
        self._output_moments = measure_outputs(twin, wide, loaded, objective)
        self._gradients = measure_output_gradients(twin, self._names, loaded, objective)
        self.forget_ladders()

    def why_left_dense(self, name: str, layer: nn.Module) -> str | None:
        reason = why_not_plain(layer)
        if reason is None and getattr(layer, "transposed", False) and not has_measurable_inputs(layer):
            reason = "it reads too many inputs for their second moment"
        return reason

    def _reads_too_much(self, name: str) -> bool:
        """Whether a layer reads too many inputs for their second moment."""
        return not has_measurable_inputs(self.whole_method.network.get_submodule(name))

    @cached_property
    def _site_ladders(self) -> tuple[tuple[Site, ...], RankedCost]:
        sites, tables, ladders = [], [], {}
        for name in self._names:
            layer, shape = self.network.get_submodule(name), self._shapes[name]
            in_ranks, out_ranks = self._tried_ranks(layer, shape, self.options["multiple"])
            if self._reads_too_much(name):
                in_ranks, out_ranks = ranks_of_outputs(layer, shape, self.options["multiple"])
            losses = self._decompose(name).damages(in_ranks)
            pairs = undominated_ranks(shape, in_ranks, losses, out_ranks)
            bias = 0 if layer.bias is None else shape.outputs
            costs = [_layer_cost(shape, Ranks(shape.channels, shape.outputs), bias)]
            costs += [_layer_cost(shape, ranks, bias) for ranks, _ in pairs]
            strengths = [1 - cost.flops / costs[0].flops for cost in costs]
            kept, strengths = falling_settings(costs, strengths)
            if len(kept) == 1:
                continue
            settings = [DENSE, *(Setting(in_rank=ranks.inputs, out_rank=ranks.outputs) for ranks, _ in pairs)]
            # Gradients of zero: no output depends on the layer, which is then no loss.
            heard = name not in self._gradients or bool(self._gradients[name].any())
            lost = [0.0, *(damage if heard else 0.0 for _, damage in pairs)]
            sites.append(
                Site(
                    name,
                    tuple(settings[i] for i in kept),
                    tuple(strengths),
                    (name,),
                    shape.outputs,
                    damages=tuple(lost[i] for i in kept) if name in self._gradients else (),
                )
            )
            tables.append([costs[i] for i in kept])
            full = Ranks(shape.channels, shape.outputs)
            ladders[name] = [[full, *(ranks for ranks, _ in pairs)][i] for i in kept]
        rest = subtract_costs(network_cost(self.network, self._uses), [table[0] for table in tables])
        return tuple(sites), RankedCost(rest, tables, self.network, self._shapes, ladders)

    def replace_layers(self, small: nn.Module, allocation: Allocation) -> None:
        for name, ranks in self._ranks_left(allocation).items():
            replace_module(small, name, self._factor(name, ranks))

    def outline_layers(self, small: nn.Module, allocation: Allocation, tensors: dict[str, Tensor]) -> None:
        for name, ranks in self._ranks_left(allocation).items():
            replace_module(small, name, outline_layer(self.network.get_submodule(name), *ranks))

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        return FactoredTuning(lr)

    def _ranks_left(self, allocation: Allocation) -> dict[str, Ranks]:
        """The ranks of the layers to take apart, cut to the widths that they have left."""
        ranks_of = {}
        for name, setting in allocation.items():
            if setting == DENSE:
                continue
            layer = self.network.get_submodule(name)
            shape = self._shapes[name].narrowed(channels_of(layer, "in"), channels_of(layer, "out"))
            ranks = shape.fitting_ranks(_ranks_of(setting))
            if ranks is not None:
                ranks_of[name] = ranks
        return ranks_of

    def _factor(self, name: str, ranks: Ranks) -> nn.Module:
        layer = self.network.get_submodule(name)
        decomposition = self._decompose(name)
        factors = decomposition.factors(*ranks)
        bias = None
        if layer.bias is not None:
            assert isinstance(layer.bias, Tensor)
            bias = layer.bias.detach().cpu().double()
            if name in self._output_moments:
                _, stays_out = self._staying(name)
                bias = bias + decomposition.lost_mean(factors, self._output_moments[name].mean[0, stays_out] - bias)
            else:
                bias = bias + self._mean_shift(name, factors)
        return factor_layer(layer, factors, bias)

    def _decompose(self, name: str) -> Decomposition:
        """The weights of the layer as it is now, narrowed or not, in the dense network's metrics."""
        layer = self.network.get_submodule(name)
        weight = weight_by_output(layer)
        outputs, channels, taps = weight.shape
        transposed = getattr(layer, "transposed", False)
        stays_in, stays_out = self._staying(name)
        gradients = self._gradients.get(name)
        if gradients is None:
            root = inverse = torch.eye(outputs, dtype=torch.float64)
        else:
            root, inverse = metric_root(gradients[stays_out][:, stays_out], DAMPING)
        if self._reads_too_much(name):
            if name in self._output_moments:
                moment = self._output_moments[name].covariance()[0][stays_out][:, stays_out]
            else:
                moment = weight.flatten(1) @ weight.flatten(1).mT
            return Decomposition(weight, None, root, inverse, moment)
        if name in self._moments:
            moment = self._moments[name].covariance()[0]
            if not transposed:
                stays_in = (stays_in[:, None] * taps + torch.arange(taps)).flatten()
            moment = moment[stays_in][:, stays_in]
        else:
            moment = torch.eye(channels if transposed else channels * taps, dtype=torch.float64)
        if transposed:  # every tap gives outputs of its own from the same channels
            moment = torch.kron(moment, torch.eye(taps, dtype=torch.float64))
        return Decomposition(weight, moment, root, inverse)

    def _staying(self, name: str) -> tuple[Tensor, Tensor]:
        """The dense layer's input and output channels that the layer still has."""
        if self._kept_channels is not None:
            return self._kept_channels(name)
        shape = self._shapes[name]
        return torch.arange(shape.channels), torch.arange(shape.outputs)

    def _mean_shift(self, name: str, factors: Factors) -> Tensor:
        """What the bias has to make up for, (N,): the mean of what the factors lose."""
        moments = self._moments.get(name)
        if moments is None or not moments.shifts:
            return torch.zeros(())
        layer = self.network.get_submodule(name)
        lost = weight_by_output(layer) - factors.product()  # (N, C, K)
        stays_in, _ = self._staying(name)
        if isinstance(layer, Conv) and layer.transposed:
            # An output sums as many taps as the kernel has for each step of the stride.
            overlap = torch.tensor(layer.stride).prod()
            return lost.sum(2) @ moments.mean[0][stays_in].double() / overlap
        mean = moments.mean[0].view(-1, taps_of(layer))[stays_in].double()
        return torch.einsum("nck,ck->n", lost, mean)

    def cost_change(self, order: RemovalOrder) -> Change:
        layers, names = [], [site.name for site in self.sites]
        for site in self.sites:
            ranks = [_ranks_of(setting) for setting in site.settings[1:]]
            sides = order.removal_of(site.name, "in"), order.removal_of(site.name, "out")
            layers.append(RankedLayer(*sides, self._shapes[site.name], ranks))
        shapes = {name: self._shapes[name] for name in names}
        return RanksChange(
            layers,
            [
                order.positions_left({name: getattr(shape, part) for name, shape in shapes.items()})
                for part in ("in_positions", "core_positions", "out_positions")
            ],
        )


def _ranks_of(setting: Setting) -> Ranks:
    return Ranks(int(setting["in_rank"]), int(setting["out_rank"]))


def _layer_cost(shape: LayerShape, ranks: Ranks, bias: int) -> Cost:
    flops, params = shape.weight_costs(*ranks)
    return Cost(int(flops), int(params) + bias, 4 * (int(params) + bias))


def ranks_of_outputs(layer: nn.Module, shape: LayerShape, multiple: int) -> tuple[Sequence[int], Sequence[int]]:
    """One projection: behind the kernel, or before one that spreads its inputs (a transposed convolution)."""
    if getattr(layer, "transposed", False):
        return ranks_up_to(shape.channels, multiple), [shape.outputs]
    return [shape.channels], ranks_up_to(shape.outputs, multiple)


def ranks_of_both(layer: nn.Module, shape: LayerShape, multiple: int) -> tuple[Sequence[int], Sequence[int]]:
    """A projection before the kernel, one behind it, or both; one is enough where the kernel has a single tap."""
    in_ranks = ranks_up_to(shape.channels, multiple)
    spaced = np.unique(np.linspace(0, len(in_ranks) - 1, min(len(in_ranks), _IN_RANKS)).round().astype(int))
    in_ranks = [shape.channels] if shape.taps == 1 else [in_ranks[i] for i in spaced]
    return in_ranks, ranks_up_to(shape.outputs, multiple)
