"""`Choice`: a method's sites and ladders on a network after the user's constraints have shortened the ladders."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from methods.base import Compressor, Cost, CostModel, Costs, Levels, Setting, Site
from models.errors import UserError
from search.allocation.constraints import Constraints, Rule, names_of, read_rules


@dataclass(frozen=True)
class Choice:
    """Sites, ladders and costs as strategies see them."""

    sites: tuple[Site, ...]
    """Sites with two settings or more, with the settings that the constraints leave."""
    full_sites: tuple[Site, ...]
    """The same sites with their full ladders."""
    fixed: Mapping[str, Setting]
    """Sites with a single setting left, unless that setting is dense."""
    cost: CostModel
    """Of the levels of `sites`."""
    left_dense: Mapping[str, str]
    """Site or layer -> why it stays dense."""
    compressor: Compressor
    rules: tuple[Rule, ...] = ()
    """The constraints that shortened the ladders."""

    @property
    def is_constrained(self) -> bool:
        return bool(self.rules)

    @property
    def is_rounded(self) -> bool:
        """Whether sites keep multiples of some number of channels."""
        return any(rule.widths for rule in self.rules)

    def full_levels(self, levels: Levels) -> Levels:
        """Levels of `sites`, (n, n_sites), as levels of all the method's sites."""
        return self.cost.full_levels(levels) if isinstance(self.cost, ShortenedCost) else levels

    def shortened_levels(self, full: Levels) -> Levels:
        """The inverse of `full_levels`, for one allocation that keeps to the constraints: (n_sites,)."""
        return self.cost.shortened_levels(full) if isinstance(self.cost, ShortenedCost) else full


class ShortenedCost:
    """Costs by levels of the shortened ladders; a site without a choice has its only setting."""

    def __init__(self, cost: CostModel, start: Levels, columns: Sequence[int], ladders: Sequence[Levels]) -> None:
        """
        Args:
            start: (n_sites of the method,) the level of each site that has no choice.
            columns: the numbers of the method's sites that have a choice.
            ladders: for each of these sites, the levels that its constraints leave.
        """
        self._cost, self._start, self._columns, self._ladders = cost, start, columns, ladders

    @property
    def dense(self) -> Cost:
        return self._cost.dense

    def full_levels(self, levels: Levels) -> Levels:
        full = np.repeat(self._start[None], len(levels), axis=0)
        for place, (column, ladder) in enumerate(self._columns_and_ladders()):
            full[:, column] = ladder[levels[:, place]]
        return full

    def shortened_levels(self, full: Levels) -> Levels:
        places = [int(np.searchsorted(ladder, full[column])) for column, ladder in self._columns_and_ladders()]
        return np.array(places, dtype=np.intp)

    def _columns_and_ladders(self) -> Iterator[tuple[int, Levels]]:
        return zip(self._columns, self._ladders, strict=True)

    def __call__(self, levels: Levels) -> Costs:
        return self._cost(self.full_levels(levels))


def constrain_choice(compressor: Compressor, constraints: Constraints, more: Sequence[Rule] = ()) -> Choice:
    """The method's sites with the settings that the constraints leave.

    Args:
        more: rules beyond those that the user wrote; they may concern no site.

    Raises:
        UserError: a pattern matches nothing (closest names), constraints contradict each other or leave no choice.
    """
    rules = read_rules(constraints)
    for rule in rules:
        _check_rule(rule, compressor)
    return _choice_under(compressor, [*rules, *more])


def blamed_constraints(choice: Choice, would_do: Callable[[Choice], bool]) -> list[str]:
    """The constraints that keep a choice from being good enough: each whose removal alone helps.

    If no single removal helps, all constraints as one text; nothing if removing all of them would not help either.

    Args:
        would_do: whether a choice is good enough.
    """
    rules, compressor = choice.rules, choice.compressor
    others = [[remaining for remaining in rules if remaining is not rule] for rule in rules]
    sufficient = [
        rule.text
        for rule, remaining in zip(rules, others, strict=True)
        if would_do(_choice_under(compressor, remaining))
    ]
    if sufficient or len(rules) < 2 or not would_do(_choice_under(compressor, [])):
        return sufficient
    return [" and ".join(rule.text for rule in rules)]


def _choice_under(compressor: Compressor, rules: Sequence[Rule]) -> Choice:
    """The choice that these constraints leave; UserError if they contradict each other or leave none."""
    sites = compressor.sites
    if not rules:
        return Choice(sites, sites, {}, compressor.cost, compressor.skipped, compressor)
    concerned = [[rule for rule in rules if rule.concerns_site(site)] for site in sites]
    allowed = [_allowed_levels(site, site_rules) for site, site_rules in zip(sites, concerned, strict=True)]
    free = [index for index, levels in enumerate(allowed) if len(levels) > 1]
    if not free:
        raise UserError(f"the constraints leave {compressor.info.name} nothing to choose; drop one of them")
    start = np.array([levels[0] for levels in allowed], dtype=np.intp)
    dense, fixed = {}, {}
    for site, site_rules, levels in zip(sites, concerned, allowed, strict=True):
        if len(levels) == 1 and levels[0] == 0:
            dense[site.name] = _dense_reason(site, site_rules)
        elif len(levels) == 1:
            fixed[site.name] = site.settings[levels[0]]
    return Choice(
        tuple(_shorten_site(sites[index], allowed[index]) for index in free),
        tuple(sites[index] for index in free),
        fixed,
        ShortenedCost(compressor.cost, start, free, [allowed[index] for index in free]),
        {**compressor.skipped, **dense},
        compressor,
        tuple(rules),
    )


def _allowed_levels(site: Site, rules: Sequence[Rule]) -> Levels:
    """The levels of a site that all its constraints allow; UserError if there is none."""
    levels = [level for level in range(len(site.settings)) if all(rule.allows(site, level) for rule in rules)]
    if levels:
        return np.array(levels, dtype=np.intp)
    texts = " and ".join(rule.text for rule in rules)
    contradict = "contradict each other" if len(rules) > 1 else "cannot be met"
    raise UserError(
        f"{texts} {contradict}: no setting of site {site.name!r} is left of "
        f"{site.settings[0]!r} to {site.settings[-1]!r} ({len(site.settings)} settings); loosen one"
    )


def _shorten_site(site: Site, levels: Levels) -> Site:
    return replace(
        site,
        settings=tuple(site.settings[level] for level in levels),
        strengths=tuple(site.strengths[level] for level in levels),
        widths=tuple(site.widths[level] for level in levels) if site.widths else (),
        damages=tuple(site.damages[level] for level in levels) if site.damages else (),
    )


def _dense_reason(site: Site, rules: Sequence[Rule]) -> str:
    """The first constraint that by itself leaves only dense; all constraints where it takes several."""
    smaller = range(1, len(site.settings))
    sufficient = [rule for rule in rules if not any(rule.allows(site, level) for level in smaller)]
    return "left dense by " + " and ".join(rule.text for rule in sufficient[:1] or rules)


def _check_rule(rule: Rule, compressor: Compressor) -> None:
    """UserError if the rule concerns no site, or bounds a unit or a width that none of its sites has."""
    sites = [site for site in compressor.sites if rule.concerns_site(site)]
    method = compressor.info.name
    if not sites:
        idle = [
            (name, reason)
            for name, reason in compressor.skipped.items()
            if rule.matches_name(name) or rule.matches_name(name.partition(":")[2])
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
