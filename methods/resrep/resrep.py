"""ResRep: remembering and forgetting (Ding et al., ICCV 2021, arXiv 2007.03260).

`compress` returns a network with compactors (`compactor.py`) whose outputs equal the dense network's. Fine-tuning it
with `tuning` (given widths) or `learned` (a FLOPs target) drives rows of the compactors to zero (`forgetting.py`).
`finish` folds convolution, norm and compactor into one narrower convolution with a bias. The result has exactly the
requested widths, even where training did not reach them. A site that loses nothing gets its norm back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, Cost, Costs, Levels, Setting, Site, Tuning, copy_network
from methods.graph.channel_sites import ChannelGroups
from methods.graph.filter_norms import filter_norms
from methods.graph.width_cost import WidthCost
from methods.resrep.compactor import ZERO, Compactor, find_compactors
from methods.resrep.forgetting import (
    Bools,
    Counts,
    Floats,
    Schedule,
    forget_arrived_rows,
    plan_schedule,
    set_gradient,
    smallest_rows,
)
from methods.resrep.places import Place, attach_compactors, find_places, fold_network
from methods.resrep.records import RESREP
from models.errors import UserError
from models.execution.inputs import Example, Inputs


class FoldedCost:
    """Costs after folding, where a narrowed site has a bias in place of its norm.

    ResRep's sites are some of the groups of `widths`; all other groups keep their channels.
    """

    def __init__(self, widths: WidthCost, places: Sequence[Place], channels: Sequence[int]) -> None:
        self._widths = widths
        self._whole = np.array(channels, dtype=np.float64)  # of every group
        self._columns = np.array([place.position for place in places], dtype=np.intp)
        self._full = self._whole[self._columns]
        self._added = np.array([place.params_added for place in places], dtype=np.int64)
        self.dense: Cost = widths.dense

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""
        return self.of_widths(self._full - levels)

    def of_widths(self, widths: Floats) -> Costs:
        """Costs when site i keeps `widths[:, i]` rows, (n_allocations, n_sites)."""
        all_widths = np.broadcast_to(self._whole, (len(widths), len(self._whole))).copy()
        all_widths[:, self._columns] = widths
        costs = self._widths.of_widths(all_widths)
        extra = np.where(widths < self._full, widths, 0).astype(np.int64) @ self._added
        return Costs(costs.flops, costs.params + extra, costs.bytes + 4 * extra)


class ResRep(Compressor):
    """Compactors on every site whose channels can be forgotten exactly."""

    info = RESREP
    cost: FoldedCost

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        super().__init__(network, example, options)
        self._channels = ChannelGroups(network, example)
        self.network = network = self._channels.network
        places, reasons = find_places(network, Inputs.of(example), self._channels)
        self.places = {place.site: place for place in places}
        self.sites = tuple(site for site in self._channels.sites if site.name in self.places)
        self.skipped = self._channels.skipped | reasons
        self.cost = FoldedCost(self._channels.cost, places, [group.channels for group in self._channels.groups])

    def compress(self, allocation: Allocation) -> nn.Module:
        """A copy with compactors, with the outputs of the dense network.

        Compactors stand at the sites that `allocation` narrows. For an empty allocation, which is to be learned, they
        stand inside all blocks (the paper's sites), and with the option `streams` on residual streams as well.
        """
        small = copy_network(self.network)
        if allocation:
            named = [site.name for site in self.sites if self._kept_width(site, allocation) < site.channels]
        else:
            named = [name for name, place in self.places.items() if self.options["streams"] or not place.shared]
        attach_compactors(small, [self.places[name] for name in named])
        return small

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """Forget rows down to the widths of `allocation`; without one, see `learned`."""
        sites = self._compacted_sites(network)
        floors = {site.name: self._kept_width(site, allocation or Allocation({})) for site in sites}
        to_forget = sum(site.channels for site in sites) - sum(floors.values())
        return Forgetting(self, floors, self._plan_schedule(steps, lr, to_forget), network if steps == 0 else None)

    def learned(self, target: float, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """Forget the smallest rows of all sites until at most `target` of the dense FLOPs are kept (0 < target ≤ 1).

        `network` comes from `compress(Allocation({}))`. UserError if one row per site costs more than the target.
        """
        sites = self._compacted_sites(network)
        dense, budget = self.cost.dense.flops, int(target * self.cost.dense.flops)
        full = np.array([site.channels for site in sites], dtype=np.float64)
        uniform = np.maximum(np.ceil(full * np.linspace(1, 0, 257)[:, None]), 1)  # every site by a common ratio
        flops = self.flops_of([site.name for site in sites])(uniform)
        if not flops[-1] <= budget <= dense:
            raise UserError(
                f"a kept fraction of {target:.4g} is out of reach of resrep's own choice on this network; ask for "
                f"{math.ceil(1e4 * flops[-1] / dense) / 1e4:.4g} to 1, or let it narrow residual streams (streams=1)"
            )
        # The learner's own widths are not known yet: the uniform ones on target say how many rows will be forgotten.
        to_forget = int((full - uniform[int((flops <= budget).argmax())]).sum())
        floors = {site.name: 1 for site in sites}
        return Forgetting(
            self, floors, self._plan_schedule(steps, lr, to_forget), network if steps == 0 else None, budget
        )

    def flops_of(self, names: Sequence[str]) -> Callable[[Floats], Counts]:
        """FLOPs (n,) as a function of the widths (n, n_names) of the named sites, where all others lose nothing."""
        columns = [i for i, site in enumerate(self.sites) if site.name in names]
        full = np.array([site.channels for site in self.sites], dtype=np.float64)

        def flops(widths: Floats) -> Counts:
            all_widths = np.broadcast_to(full, (len(widths), len(full))).copy()
            all_widths[:, columns] = widths
            return self.cost.of_widths(all_widths).flops

        return flops

    @property
    def unregistered_tensors(self) -> list[str]:
        return self._channels.unregistered_tensors

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The packed network again; any rows may be folded away, as all weights are then loaded."""
        wide = self.compress(allocation) if allocation else copy_network(self.network)  # empty: nothing to narrow
        small = self.tuning(allocation, wide, steps=0, lr=1.0).finish(wide)
        small.load_state_dict(dict(tensors))
        return small

    def fold_compactors(self, network: nn.Module, staying: Mapping[str, Tensor]) -> None:
        """Fold all compactors of `network` and keep the rows `staying` (site -> ascending rows); in place."""
        fold_network(network, list(self.places.values()), staying, self._channels)

    def filter_sizes(self) -> dict[str, Floats]:
        """Per site (D,) the L1 norms of its filters, a mean over all that write the channel, over their mean."""
        sizes = {}
        for place in self.places.values():
            norms = filter_norms(self.network, self._channels.groups[place.position], 1).double()
            sizes[place.site] = (norms / norms.mean().clamp(min=1e-30)).numpy()
        return sizes

    def _compacted_sites(self, network: nn.Module) -> list[Site]:
        present = find_compactors(network)
        return [site for site in self.sites if site.name in present]

    def _kept_width(self, site: Site, allocation: Allocation) -> int:
        """The channels that `allocation` leaves; each level of a site removes one."""
        return site.channels - (site.level_of(allocation[site.name]) if site.name in allocation else 0)

    def _plan_schedule(self, steps: int, lr: float, to_forget: int) -> Schedule:
        return plan_schedule(
            steps, lr, to_forget, penalty=float(self.options["penalty"]), interval=int(self.options["interval"])
        )


class Forgetting(Tuning):
    """Masks rows, pulls them to zero, and folds the rest."""

    def __init__(
        self,
        owner: ResRep,
        floors: Mapping[str, int],
        schedule: Schedule,
        at_once: nn.Module | None = None,
        budget: int | None = None,
    ) -> None:
        """`floors`: the rows to keep per site, or with a `budget` of FLOPs, the least of them.

        `at_once`: a network that will get no step; its rows are silenced now, before batch norm is measured anew.
        """
        self._owner = owner
        self._floors = dict(floors)
        self.schedule = schedule
        self._budget = budget
        self._sizes = owner.filter_sizes()
        self._masks: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._report: dict[str, Any] = {}
        self._allocation: Allocation | None = None
        self._silenced = 0
        if at_once is not None:
            for compactor, mask in self.choose_rows(at_once).values():
                compactor.alive.masked_fill_(torch.as_tensor(mask, device=compactor.alive.device)[:, None], 0)
                self._silenced += int(mask.sum())

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """A group for the compactors, with another rate, heavy momentum and no weight decay, and one for the rest."""
        weights = {id(compactor.weight): compactor.weight for compactor in find_compactors(network).values()}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in weights]
        pace = {"lr": self.schedule.lr, "momentum": self.schedule.momentum}
        compactors = {"params": list(weights.values()), "weight_decay": 0.0, **pace}
        return [group for group in ({"params": rest}, compactors) if group["params"]]

    def after_backward(self, network: nn.Module, step: int) -> None:
        compactors = find_compactors(network)
        for name, mask in self._masks.items():
            forget_arrived_rows(compactors[name], mask, self._before[name])
        if self.schedule.is_selection(step):
            chosen = self.choose_rows(network, self.schedule.may_mask(step))
            self._masks = {name: torch.as_tensor(mask, device=c.alive.device) for name, (c, mask) in chosen.items()}
        for name, compactor in compactors.items():
            none = torch.zeros(len(compactor.alive), dtype=torch.bool, device=compactor.alive.device)
            set_gradient(compactor, self._masks.get(name, none), self.schedule, step)
            self._before[name] = compactor.current_rows().detach().clone()

    def finish(self, network: nn.Module) -> nn.Module:
        """A narrow copy without compactors; masked rows are removed even if they have not reached zero."""
        small = copy_network(network)
        chosen = self.choose_rows(small)  # without a limit, and by final norms: the requested widths, reached or not
        forced = self._silenced
        staying = {}
        for name, (compactor, mask) in chosen.items():
            norms = compactor.row_norms().detach().double().cpu().numpy()
            forced += int((norms[mask] >= ZERO).sum())
            if self._budget is not None:  # rows that reached zero without a mask are removed too
                mask = mask | (norms < ZERO) & (norms < norms.max())
            staying[name] = torch.as_tensor(np.flatnonzero(~mask))
        self._report = {
            "rows_forgotten": sum(len(mask) - len(staying[name]) for name, (_, mask) in chosen.items()),
            "rows_not_at_zero": forced,
            "penalty": self.schedule.pull,
            "interval": self.schedule.interval,
        }
        settings: dict[str, Setting] = {}
        for site in self._owner.sites:
            width = len(staying[site.name]) if site.name in staying else site.channels
            settings[site.name] = site.settings[site.channels - width]
        self._allocation = Allocation(settings)
        self._owner.fold_compactors(small, staying)
        return small

    def learned_allocation(self) -> Allocation | None:
        return self._allocation

    def report(self) -> dict[str, Any]:
        """After `finish`: the number of forgotten rows, and of those removed by force.

        `rows_not_at_zero` counts the rows whose norm had not fallen below 1e-5 when they were removed.
        """
        return dict(self._report)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The masks, and every row before the last step."""
        return {"masks": dict(self._masks), "before": dict(self._before)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._masks, self._before = dict(state["masks"]), dict(state["before"])

    def choose_rows(self, network: nn.Module, limit: int | None = None) -> dict[str, tuple[Compactor, Bools]]:
        """Site -> its compactor, and (D,) bool the rows to mask; at most `limit` rows in all."""
        compactors = find_compactors(network)
        names = [site.name for site in self._owner.sites if site.name in compactors]
        if not names:
            return {}
        scores = [self._row_scores(name, compactors[name]) for name in names]
        floors = [self._floors[name] for name in names]
        if self._budget is None:
            masks = smallest_rows(scores, floors, limit)
        else:
            masks = smallest_rows(scores, floors, limit, self._owner.flops_of(names), self._budget)
        return {name: (compactors[name], mask) for name, mask in zip(names, masks, strict=True)}

    def _row_scores(self, name: str, compactor: Compactor) -> Floats:
        """(D,) the score of each row: its norm and, in short budgets, the norm of its filter."""
        norms: Floats = compactor.row_norms().detach().double().cpu().numpy()
        return norms * self._sizes[name] ** self.schedule.size_weight
