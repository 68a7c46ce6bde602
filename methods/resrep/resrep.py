"""ResRep: remembering and forgetting (Ding et al., ICCV 2021, arXiv 2007.03260).

`compress` returns a network with compactors (`compactor.py`) that computes what the dense one does; fine-tuning it
under `tuning` (given widths) or `learned` (a FLOPs target) drives rows of the compactors to zero (`forgetting.py`);
`finish` folds convolution, norm and compactor into one narrower convolution with a bias. Whatever the training
reached, exactly the widths asked for are left. A site that loses nothing gets its norm back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, Cost, Costs, Levels, MethodInfo, Setting, Site, Tuning, copy_network
from methods.graph.channel_sites import ChannelGroups
from methods.graph.filter_norms import filter_norms
from methods.graph.width_cost import WidthCost
from methods.registry import register
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
from models.errors import UserError


class FoldedCost:
    """Costs after folding: a narrowed site has a bias in place of its norm.

    Sites are a part of the groups that `widths` knows; the other groups stay whole.
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

    def of_widths(self, kept: Floats) -> Costs:
        """Costs when site i keeps `kept[:, i]` rows; (n_allocations, n_sites)."""
        every = np.broadcast_to(self._whole, (len(kept), len(self._whole))).copy()
        every[:, self._columns] = kept
        costs = self._widths.of_widths(every)
        extra = np.where(kept < self._full, kept, 0).astype(np.int64) @ self._added
        return Costs(costs.flops, costs.params + extra, costs.bytes + 4 * extra)


class ResRep(Compressor):
    """Compactors on every site whose channels can be forgotten exactly; options: penalty, interval, streams."""

    cost: FoldedCost

    def __init__(self, info: MethodInfo, network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> None:
        super().__init__(network, example, options)
        self.info = info
        self._channels = ChannelGroups(network, example)
        places, reasons = find_places(network, example, self._channels)
        self.places = {place.site: place for place in places}
        self.sites = tuple(site for site in self._channels.sites if site.name in self.places)
        self.skipped = self._channels.skipped | reasons
        self.cost = FoldedCost(self._channels.cost, places, [group.channels for group in self._channels.groups])

    def compress(self, allocation: Allocation) -> nn.Module:
        """A copy with compactors, which computes what the network does.

        They stand at the sites that `allocation` narrows; an empty one, to be learned, puts them inside all blocks
        (the paper's sites), and with the option `streams` on residual streams as well.
        """
        small = copy_network(self.network)
        if allocation:
            named = [site.name for site in self.sites if self._width(site, allocation) < site.channels]
        else:
            named = [name for name, place in self.places.items() if self.options["streams"] or not place.shared]
        attach_compactors(small, [self.places[name] for name in named])
        return small

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """Forget down to the widths of `allocation`; `learned` is for those who have none."""
        sites = self._compacted(network)
        floors = {site.name: self._width(site, allocation or Allocation({})) for site in sites}
        rows = sum(site.channels for site in sites) - sum(floors.values())
        return Forgetting(self, floors, self._plan(steps, lr, rows), network if steps == 0 else None)

    def learned(self, target: float, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        """Forget whichever rows matter least until at most `target` of the dense FLOPs are kept (0 < target ≤ 1).

        `network` comes from `compress(Allocation({}))`. UserError if the target is below what one row a site costs.
        """
        sites = self._compacted(network)
        dense, budget = self.cost.dense.flops, int(target * self.cost.dense.flops)
        full = np.array([site.channels for site in sites], dtype=np.float64)
        uniform = np.maximum(np.ceil(full * np.linspace(1, 0, 257)[:, None]), 1)  # every site by a common ratio
        flops = self.flops_of([site.name for site in sites])(uniform)
        if not flops[-1] <= budget <= dense:
            raise UserError(
                f"a kept fraction of {target:.4g} is out of reach of resrep's own choice on this network; ask for "
                f"{math.ceil(1e4 * flops[-1] / dense) / 1e4:.4g} to 1, or let it narrow residual streams (streams=1)"
            )
        rows = int((full - uniform[int((flops <= budget).argmax())]).sum())
        floors = {site.name: 1 for site in sites}
        return Forgetting(self, floors, self._plan(steps, lr, rows), network if steps == 0 else None, budget)

    def flops_of(self, names: Sequence[str]) -> Callable[[Floats], Counts]:
        """FLOPs as a function of the widths (n, n_names) of the named sites, all others whole; (n,)."""
        columns = [i for i, site in enumerate(self.sites) if site.name in names]
        full = np.array([site.channels for site in self.sites], dtype=np.float64)

        def flops(kept: Floats) -> Counts:
            every = np.broadcast_to(full, (len(kept), len(full))).copy()
            every[:, columns] = kept
            return self.cost.of_widths(every).flops

        return flops

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Which rows were kept does not matter any more: only the widths do."""
        wide = self.compress(allocation) if allocation else copy_network(self.network)  # empty: nothing to narrow
        small = self.tuning(allocation, wide, steps=0, lr=1.0).finish(wide)
        small.load_state_dict(dict(tensors))
        return small

    def fold(self, network: nn.Module, kept: Mapping[str, Tensor]) -> None:
        """Fold all compactors of `network`, in place; only the rows `kept` (ascending) are left of each."""
        fold_network(network, list(self.places.values()), kept, self._channels)

    def filter_sizes(self) -> dict[str, Floats]:
        """Per site the L1 norms of its filters (the mean of all that write a channel), relative to their mean."""
        sizes = {}
        for place in self.places.values():
            norms = filter_norms(self.network, self._channels.groups[place.position], 1).double()
            sizes[place.site] = (norms / norms.mean().clamp(min=1e-30)).numpy()
        return sizes

    def _compacted(self, network: nn.Module) -> list[Site]:
        present = find_compactors(network)
        return [site for site in self.sites if site.name in present]

    def _width(self, site: Site, allocation: Allocation) -> int:
        """Channels that `allocation` leaves; a site's levels remove one channel each."""
        return site.channels - (site.level_of(allocation[site.name]) if site.name in allocation else 0)

    def _plan(self, steps: int, lr: float, rows: int) -> Schedule:
        return plan_schedule(
            steps, lr, rows, penalty=float(self.options["penalty"]), interval=int(self.options["interval"])
        )


class Forgetting(Tuning):
    """Masks rows, pulls them to zero, and folds what is left."""

    def __init__(
        self,
        owner: ResRep,
        floors: Mapping[str, int],
        schedule: Schedule,
        at_once: nn.Module | None = None,
        budget: int | None = None,
    ) -> None:
        """`floors`: rows to leave per site; with `budget` (FLOPs), the least, and the choice is made here.

        `at_once`: a network that gets no step; its rows are chosen and silenced now, for whoever recalibrates it.
        """
        self._owner = owner
        self._floors = dict(floors)
        self.schedule = schedule
        self._budget = budget
        self._sizes = owner.filter_sizes()
        self._masks: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._report: dict[str, Any] = {}
        self._silenced = 0
        if at_once is not None:
            for compactor, mask in self._choose(at_once).values():
                compactor.alive.masked_fill_(torch.as_tensor(mask, device=compactor.alive.device)[:, None], 0)
                self._silenced += int(mask.sum())

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Compactors on their own: their own rate, heavy momentum, no weight decay."""
        own = {id(compactor.weight): compactor.weight for compactor in find_compactors(network).values()}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in own]
        pace = {"lr": self.schedule.lr, "momentum": self.schedule.momentum}
        rows = {"params": list(own.values()), "weight_decay": 0.0, **pace}
        return [group for group in ({"params": rest}, rows) if group["params"]]

    def after_backward(self, network: nn.Module, step: int) -> None:
        found = find_compactors(network)
        for name, mask in self._masks.items():
            forget_arrived_rows(found[name], mask, self._before[name])
        if self.schedule.selects(step):
            chosen = self._choose(network, self.schedule.may_mask(step))
            self._masks = {name: torch.as_tensor(mask, device=c.alive.device) for name, (c, mask) in chosen.items()}
        for name, compactor in found.items():
            none = torch.zeros(len(compactor.alive), dtype=torch.bool, device=compactor.alive.device)
            set_gradient(compactor, self._masks.get(name, none), self.schedule, step)
            self._before[name] = compactor.rows().detach().clone()

    def finish(self, network: nn.Module) -> nn.Module:
        """A narrow copy without compactors; the rows asked for go, whether they had reached zero or not."""
        small = copy_network(network)
        chosen = self._choose(small)
        forced = self._silenced
        kept = {}
        for name, (compactor, mask) in chosen.items():
            norms = compactor.norms().detach().double().cpu().numpy()
            forced += int((norms[mask] >= ZERO).sum())
            if self._budget is not None:  # the learner may also have forgotten what nobody asked for
                mask = mask | (norms < ZERO) & (norms < norms.max())
            kept[name] = torch.as_tensor(np.flatnonzero(~mask))
        self._report = self._summary(kept, chosen, forced)
        self._owner.fold(small, kept)
        return small

    def report(self) -> dict[str, Any]:
        """After `finish`: the allocation arrived at, rows forgotten, and how many had to be forced.

        `rows_not_at_zero` counts the rows whose norm had not fallen below 1e-5 when they were removed.
        """
        return dict(self._report)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Which rows are masked, and where every row stood before the last step."""
        return {"masks": dict(self._masks), "before": dict(self._before)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._masks, self._before = dict(state["masks"]), dict(state["before"])

    def _choose(self, network: nn.Module, limit: int | None = None) -> dict[str, tuple[Compactor, Bools]]:
        """Every compactor with the rows to mask now, (D,)."""
        found = find_compactors(network)
        names = [site.name for site in self._owner.sites if site.name in found]
        if not names:
            return {}
        scores = [self._score(name, found[name]) for name in names]
        floors = [self._floors[name] for name in names]
        if self._budget is None:
            masks = smallest_rows(scores, floors, limit)
        else:
            masks = smallest_rows(scores, floors, limit, self._owner.flops_of(names), self._budget)
        return {name: (found[name], mask) for name, mask in zip(names, masks, strict=True)}

    def _score(self, name: str, compactor: Compactor) -> Floats:
        """What each row counts for, (D,): its norm, and in short budgets the size of the filter it passes on."""
        norms: Floats = compactor.norms().detach().double().cpu().numpy()
        return norms * self._sizes[name] ** self.schedule.size_weight

    def _summary(
        self, kept: Mapping[str, Tensor], chosen: Mapping[str, tuple[Compactor, Bools]], forced: int
    ) -> dict[str, Any]:
        settings: dict[str, Setting] = {}
        for site in self._owner.sites:
            width = len(kept[site.name]) if site.name in kept else site.channels
            settings[site.name] = site.settings[site.channels - width]
        return {
            "allocation": Allocation(settings).to_json(),
            "rows_forgotten": sum(len(mask) - len(kept[name]) for name, (_, mask) in chosen.items()),
            "rows_not_at_zero": forced,
            "penalty": self.schedule.pull,
            "interval": self.schedule.interval,
        }


INFO = MethodInfo(
    "resrep",
    "rows of compactors are driven to zero while the rest trains, then folded away",
    "Ding et al., ICCV 2021, arXiv 2007.03260",
    learns_allocation=True,
    options={"penalty": 1e-4, "interval": 200, "streams": 0},
)


def _create(network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> ResRep:
    return ResRep(INFO, network, example, options)


register(INFO, _create)
