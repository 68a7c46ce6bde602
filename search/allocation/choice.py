"""What is left to choose of a method on a network, once the user's constraints have shortened its ladders."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from methods.base import Compressor, Cost, CostModel, Costs, Levels, Setting, Site
from models.errors import UserError
from search.allocation.constraints import Constraints, Rule, names_of, rules


@dataclass(frozen=True)
class Choice:
    """Sites, ladders and costs as strategies see them."""

    sites: tuple[Site, ...]
    """Those with two settings or more, with the settings that are left."""
    whole: tuple[Site, ...]
    """The same with their full ladders."""
    fixed: Mapping[str, Setting]
    """Sites that are left a single setting, unless it is dense."""
    cost: CostModel
    """Of the levels of `sites`."""
    left_dense: Mapping[str, str]
    """Site or layer -> why it stays dense."""
    compressor: Compressor
    ruling: tuple[Rule, ...] = ()
    """The constraints that shortened the ladders."""

    @property
    def constrained(self) -> bool:
        return bool(self.ruling)

    def full(self, levels: Levels) -> Levels:
        """Levels of `sites`, (n, n_sites), as levels of all the method's sites."""
        return self.cost.full(levels) if isinstance(self.cost, ShortenedCost) else levels

    def shortened(self, full: Levels) -> Levels:
        """The inverse of `full`, for one allocation that keeps to the constraints: (n_sites,)."""
        if not isinstance(self.cost, ShortenedCost):
            return full
        return self.cost.shortened(full)


class ShortenedCost:
    """Costs by the levels of shortened ladders; sites without a choice stand at their only setting."""

    def __init__(self, cost: CostModel, start: Levels, columns: Sequence[int], ladders: Sequence[Levels]) -> None:
        """
        Args:
            start: (n_sites of the method,) the level of each site that has no choice.
            columns: which of the method's sites are left.
            ladders: for each of these, the levels that are left.
        """
        self._cost, self._start, self._columns, self._ladders = cost, start, columns, ladders

    @property
    def dense(self) -> Cost:
        return self._cost.dense

    def full(self, levels: Levels) -> Levels:
        rows = np.repeat(self._start[None], len(levels), axis=0)
        for place, (column, ladder) in enumerate(self._pairs()):
            rows[:, column] = ladder[levels[:, place]]
        return rows

    def shortened(self, full: Levels) -> Levels:
        places = [int(np.searchsorted(ladder, full[column])) for column, ladder in self._pairs()]
        return np.array(places, dtype=np.intp)

    def _pairs(self) -> Iterator[tuple[int, Levels]]:
        return zip(self._columns, self._ladders, strict=True)

    def __call__(self, levels: Levels) -> Costs:
        return self._cost(self.full(levels))


def choose(compressor: Compressor, constraints: Constraints) -> Choice:
    """The method's sites with what the constraints leave of their ladders.

    Raises:
        UserError: a pattern matches nothing (closest names), constraints contradict each other or leave no choice.
    """
    ruling = rules(constraints)
    for rule in ruling:
        _check(rule, compressor)
    return _under(compressor, ruling)


def blamed(choice: Choice, reaches: Callable[[Choice], bool]) -> list[str]:
    """The constraints without any one of which a choice would do; all of them if it takes that; none if they are not
    to blame.

    Args:
        reaches: whether a choice would do.
    """
    ruling, compressor = choice.ruling, choice.compressor
    others = [[other for other in ruling if other is not rule] for rule in ruling]
    alone = [rule.text for rule, left in zip(ruling, others, strict=True) if reaches(_under(compressor, left))]
    if alone or len(ruling) < 2 or not reaches(_under(compressor, [])):
        return alone
    return [" and ".join(rule.text for rule in ruling)]


def _under(compressor: Compressor, ruling: Sequence[Rule]) -> Choice:
    """What these constraints leave; UserError if they contradict each other or leave no choice."""
    sites = compressor.sites
    if not ruling:
        return Choice(sites, sites, {}, compressor.cost, compressor.skipped, compressor)
    concerned = [[rule for rule in ruling if rule.concerns(site)] for site in sites]
    left = [_left(site, own) for site, own in zip(sites, concerned, strict=True)]
    free = [index for index, levels in enumerate(left) if len(levels) > 1]
    if not free:
        raise UserError(f"the constraints leave {compressor.info.name} nothing to choose; drop one of them")
    start = np.array([levels[0] for levels in left], dtype=np.intp)
    dense = {site.name: _reason(site, own) for site, own, levels in zip(sites, concerned, left, strict=True)
             if levels.tolist() == [0]}  # fmt: skip
    fixed = {site.name: site.settings[level] for site, level, levels in zip(sites, start, left, strict=True)
             if len(levels) == 1 and level}  # fmt: skip
    return Choice(
        tuple(_shortened(sites[index], left[index]) for index in free),
        tuple(sites[index] for index in free),
        fixed,
        ShortenedCost(compressor.cost, start, free, [left[index] for index in free]),
        {**compressor.skipped, **dense},
        compressor,
        tuple(ruling),
    )


def _left(site: Site, ruling: Sequence[Rule]) -> Levels:
    """The levels of a site that all its constraints allow; UserError if there is none."""
    levels = [level for level in range(len(site.settings)) if all(rule.allows(site, level) for rule in ruling)]
    if levels:
        return np.array(levels, dtype=np.intp)
    texts = " and ".join(rule.text for rule in ruling)
    contradict = "contradict each other" if len(ruling) > 1 else "cannot be met"
    raise UserError(
        f"{texts} {contradict}: no setting of site {site.name!r} is left of "
        f"{site.settings[0]!r} to {site.settings[-1]!r} ({len(site.settings)} settings); loosen one"
    )


def _shortened(site: Site, levels: Levels) -> Site:
    return replace(
        site,
        settings=tuple(site.settings[level] for level in levels),
        strengths=tuple(site.strengths[level] for level in levels),
        widths=tuple(site.widths[level] for level in levels) if site.widths else (),
    )


def _reason(site: Site, ruling: Sequence[Rule]) -> str:
    """The first constraint that leaves nothing else by itself; all of them where it takes several."""
    smaller = range(1, len(site.settings))
    alone = [rule for rule in ruling if not any(rule.allows(site, level) for level in smaller)]
    return "left dense by " + " and ".join(rule.text for rule in alone[:1] or ruling)


def _check(rule: Rule, compressor: Compressor) -> None:
    """UserError if the rule concerns no site, or speaks of what none of its sites has."""
    sites = [site for site in compressor.sites if rule.concerns(site)]
    method = compressor.info.name
    if not sites:
        idle = [
            (name, reason)
            for name, reason in compressor.skipped.items()
            if rule.matches(name) or rule.matches(name.partition(":")[2])
        ]  # a composition's are METHOD:LAYER
        if idle and rule.dense:
            return
        if idle:
            raise UserError(f"{rule.text} has nothing to bind: {idle[0][0]} stays dense as it is ({idle[0][1]})")
        raise _no_match(rule, compressor)
    if rule.widths and not any(site.widths for site in sites):
        raise UserError(f"{rule.text} has nothing to round: {method} removes no channels there")
    if rule.knob and not any(rule.knob in setting for site in sites for setting in site.settings):
        knobs = ", ".join(dict.fromkeys(knob for site in sites for setting in site.settings for knob in setting))
        raise UserError(f"{rule.text} names no unit of {method}; it has {knobs}")


def _no_match(rule: Rule, compressor: Compressor) -> UserError:
    names = list(dict.fromkeys([name for site in compressor.sites for name in names_of(site)] + [*compressor.skipped]))
    close = difflib.get_close_matches(rule.pattern.replace("*", ""), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names[:12])}"
    return UserError(f"{rule.text} matches no site or layer of {compressor.info.name}; {hint}")
