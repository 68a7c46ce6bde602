"""Constraints on single sites, by name patterns: left dense, bounded, rounded to multiples of channels.

Constraints take settings off a site's ladder before a strategy sees it, so that every strategy obeys them and the
reachable range is known beforehand. Sensitivity scans measure full ladders: their outcomes hold under any constraints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from models.errors import UserError
from models.settings import NumberText, Option, Settings, setting_name

if TYPE_CHECKING:  # torch takes seconds to import, and the command line shows its help without
    from methods.base import Site

_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_BOUND = re.compile(
    rf"(?P<pattern>.+)=(?:(?P<knob>[A-Za-z_]\w*):)?(?P<low>{_NUMBER}?)(?P<dots>\.\.)?(?P<high>{_NUMBER}?)", re.ASCII
)
_WAYS = (
    "write PATTERN=LOW..HIGH with the least and most kept fraction, as in 'layer3.*=0.25..0.75', "
    "or PATTERN=KNOB:LOW..HIGH in the method's own units"
)
_DIGITS = 9  # of a number of channels
_EDGE = 1e-6  # settings are kept to six decimals


_Repeatable = Option(repeatable=True)


class Constraints(Settings):
    """Constraints as the user wrote them."""

    keep_dense: Annotated[tuple[str, ...], _Repeatable] = ()
    """Sites or layers to leave dense, by name or pattern ('layer1.*'); repeatable."""
    bound: Annotated[tuple[str, ...], _Repeatable] = ()
    """Kept fraction of some sites: 'layer3.*=0.25..0.75', or 'PATTERN=KNOB:2..4'; repeatable."""
    round_channels: Annotated[tuple[NumberText, ...], _Repeatable] = ()
    """Keep multiples of so many channels: 8, or 'layer3.*=16' for some sites; repeatable."""

    @property
    def constrains_sites(self) -> bool:
        return bool(self.keep_dense or self.bound or self.round_channels)

    def option_words(self) -> list[str]:
        """As options of the command line."""
        options = [
            ("--keep-dense", self.keep_dense),
            ("--bound", self.bound),
            ("--round-channels", self.round_channels),
        ]
        return [word for option, values in options for value in values for word in (option, value)]


@dataclass(frozen=True)
class Rule:
    """One constraint: the sites that it concerns, and the settings of theirs that it leaves."""

    text: str
    """As the user wrote it, after the name of its setting."""
    pattern: str
    allows: Callable[[Site, int], bool]
    dense: bool = False
    """Leaves only the dense setting, so that it may name a layer that is dense in any case."""
    knob: str | None = None
    widths: bool = False
    """Concerns numbers of channels."""

    def matches_name(self, name: str) -> bool:
        return self.pattern == name or fnmatchcase(name, self.pattern)

    def concerns_site(self, site: Site) -> bool:
        return any(map(self.matches_name, names_of(site)))


def names_of(site: Site) -> tuple[str, ...]:
    """The names by which a pattern finds a site: its own, and those of the layers whose output channels it removes."""
    return (site.name, *(site.owned or site.layers))


def read_rules(constraints: Constraints) -> list[Rule]:
    """The constraints as rules; UserError for a malformed one."""
    rules = [
        Rule(f"{setting_name('keep_dense')} {text!r}", text, lambda site, level: level == 0, dense=True)
        for text in constraints.keep_dense
    ]
    rules += [_read_bound(text) for text in constraints.bound]
    rules += [_read_rounding(text) for text in constraints.round_channels]
    for rule in rules:
        if not rule.pattern.strip():
            raise UserError(f"{rule.text} names no site; write a name or a pattern such as 'layer1.*'")
    return rules


def _read_bound(text: str) -> Rule:
    shown, match = f"{setting_name('bound')} {text!r}", _BOUND.fullmatch(text)
    if match is None or not (match["low"] or match["high"]) or (match["high"] and not match["dots"]):
        raise UserError(f"{shown} is not understood; {_WAYS}")
    low = float(match["low"] or 0)
    high = float(match["high"] or math.inf) if match["dots"] else low
    knob = match["knob"]
    endless = low == math.inf or (bool(match["high"]) and high == math.inf)  # a number with hundreds of digits
    if endless or low > high or (knob is None and (low > 1 or 1 < high < math.inf)):
        raise UserError(f"{shown} holds no kept fraction between 0 and 1; {_WAYS}")

    def is_in_bounds(site: Site, level: int) -> bool:
        value = site.settings[level].get(knob) if knob else kept_fraction(site, level)
        return isinstance(value, int | float) and low - _EDGE <= value <= high + _EDGE

    return Rule(shown, match["pattern"], is_in_bounds, knob=knob)


def _read_rounding(text: str) -> Rule:
    shown = f"{setting_name('round_channels')} {text!r}"
    pattern, equals, number = text.rpartition("=")
    if not number.isascii() or not number.isdigit() or len(number) > _DIGITS or int(number) < 1:
        raise UserError(f"{shown} is not understood; write 8, or PATTERN=8 for some sites alone")
    multiple = int(number)

    def is_multiple(site: Site, level: int) -> bool:
        return not site.widths or level == 0 or site.widths[level] % multiple == 0

    return Rule(shown, pattern if equals else "*", is_multiple, widths=True)


def step_rule(step: int, devices: Sequence[str]) -> Rule:
    """Multiples of a step of devices' kernels, and below it its halves, quarters, ...: a rule that nobody wrote."""

    def is_worth_its_time(site: Site, level: int) -> bool:
        return not site.widths or level == 0 or is_on_step(site.widths[level], step)

    text = f"the steps of kernels on {' and '.join(devices)}, {step} channels"
    return Rule(text, "*", is_worth_its_time, widths=True)


def is_on_step(width: int, step: int) -> bool:
    """Whether a width is a multiple of a step, or below it a half, a quarter, ... of it."""
    return width > 0 and (width % step == 0 or (width < step and step % width == 0))


def kept_fraction(site: Site, level: int) -> float:
    """The share of channels kept, for a site that removes channels; otherwise 1 − strength."""
    return site.widths[level] / site.channels if site.widths else 1 - site.strengths[level]
