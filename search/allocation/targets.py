"""Targets: what the compressed network may cost, as a user writes it, in one measure or in several at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from models.errors import UserError

MOST_AMOUNT = 2.0**62  # costs are counted in 64-bit integers
MOST_SPEED_UP = 1e9
TOLERANCE = 0.005
"""A target is met by a figure at most this fraction of the dense network's below it, and never above it."""


def flops_text(flops: float) -> str:
    """A count of multiply-accumulates with its unit, three figures."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(flops) >= size:
            return f"{flops / size:.3g}{unit}" if flops < 999.5 * size else f"{flops / size:.0f}{unit}"
    return f"{flops:.0f}"


def latency_text(nanoseconds: float) -> str:
    """A time with its unit, three figures."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


@dataclass(frozen=True)
class Measure:
    """A kind of cost of a network, counted in whole numbers."""

    name: str
    units: Mapping[str, float]
    """Unit of an amount, in capitals -> the factor that it stands for."""
    examples: str
    number: Callable[[float], str]
    """A figure as text, without the noun."""
    noun: str = ""

    def figure_text(self, value: float) -> str:
        """A figure with its noun: `304K FLOPs`."""
        return f"{self.number(value)} {self.noun}".rstrip()


_COUNTS = {"K": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1.0, **_COUNTS, **{f"{unit}B": size for unit, size in _COUNTS.items()}}
_TIMES = {"US": 1e3, "MS": 1e6, "S": 1e9}  # in nanoseconds
MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("flops", _COUNTS, "60M, 1.2G", flops_text, "FLOPs"),
        Measure("params", _COUNTS, "200K, 2M", flops_text, "parameters"),
        Measure("bytes", _BYTES, "500K, 2MB", flops_text, "bytes"),
        Measure("latency", _TIMES, "800us, 5ms", latency_text),
    )
}
LATENCY = "latency"
ON_DEVICE = f"{LATENCY}@"  # `latency@phone`: the latency on a device, by the name of its table
_DEVICE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_FORM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*|%)", re.ASCII)


def latency_measure(device: str | None) -> str:
    """The name of the measure that is the latency on a device with a table; without one, on the device of the run."""
    return LATENCY if device is None else f"{ON_DEVICE}{device}"


def device_of(measure: str) -> str | None:
    """The device that a measure is the latency on; None for every other measure."""
    return measure.removeprefix(ON_DEVICE) if measure.startswith(ON_DEVICE) else None


def is_latency(measure: str) -> bool:
    """Whether a measure is a latency, on whichever device."""
    return measure == LATENCY or device_of(measure) is not None


def is_device_name(name: str) -> bool:
    """Whether a device may be called so: targets and file names have it as a word."""
    return _DEVICE_NAME.fullmatch(name) is not None


def find_measure(name: str) -> Measure | None:
    """The measure of a name, a device's latency among them; None if there is none."""
    device = device_of(name)
    if device is None:
        return MEASURES.get(name)
    return replace(MEASURES[LATENCY], name=name, noun=f"on {device}") if is_device_name(device) else None


def measure_of(name: str) -> Measure:
    """The measure of a name that is known to be one."""
    measure = find_measure(name)
    assert measure is not None
    return measure


def _place_of(name: str) -> tuple[int, str]:
    """Where a measure stands among others: in the order of `MEASURES`, devices by name."""
    return list(MEASURES).index(LATENCY if is_latency(name) else name), name


def _ways_to_write(measure: Measure) -> str:
    times = "a speed-up (2.12x)" if measure.name == "flops" or is_latency(measure.name) else "a factor (2.12x)"
    return f"write a kept fraction (0.5), an amount ({measure.examples}) or {times}"


@dataclass(frozen=True)
class TargetTerm:
    """The bound of a target on one measure: a kept fraction or an amount, the other one is None."""

    measure: str
    asked: str
    """As the user wrote it: `0.5`, `60M`, `2.12x`."""
    kept: float | None = None
    amount: float | None = None

    def limit_for(self, dense: int) -> int:
        """The largest figure allowed, given the dense network's."""
        if self.amount is not None:
            return int(self.amount)
        assert self.kept is not None
        return int(self.kept * dense)


@dataclass(frozen=True)
class Target:
    """Bounds that must all be met.

    A pydantic model may have fields of this type: they take a target or its text, and are written as the text.
    """

    asked: str
    """As the user wrote it, its terms in the order of `MEASURES`."""
    terms: tuple[TargetTerm, ...]

    def __str__(self) -> str:
        return self.asked

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(term.measure for term in self.terms)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema()
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: value if isinstance(value, cls) else parse_target(read(value)),
            text,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=text),
        )


def parse_target(text: str) -> Target:
    """Read `0.5`, `60M`, `2.12x` (FLOPs), `params 0.4`, `flops 0.5 + latency 5ms` or `latency@phone 0.6`.

    Raises:
        UserError: anything else.
    """
    pieces = [piece.strip() for piece in text.strip().split("+")]
    terms = []
    for piece in pieces:
        name, _, rest = piece.partition(" ")
        name = name if device_of(name) else name.lower()
        if find_measure(name) and rest.strip():
            terms.append(parse_term(name, rest))
        else:  # a target without a measure is one of FLOPs
            terms.append(parse_term("flops", piece, text.strip()))
    if len({term.measure for term in terms}) < len(terms):
        raise UserError(f"target {text.strip()!r} names a measure twice; name each once")
    terms.sort(key=lambda term: _place_of(term.measure))
    if [term.measure for term in terms] == ["flops"]:
        return Target(terms[0].asked, tuple(terms))
    return Target(" + ".join(f"{term.measure} {term.asked}" for term in terms), tuple(terms))


def parse_term(name: str, text: str, target_text: str | None = None) -> TargetTerm:
    """Read one measure's `0.5`, `50%`, `2.12x` or amount; UserError for anything else."""
    text, measure = text.strip(), measure_of(name)
    shown = target_text or text
    match = _FORM.fullmatch(text)
    what = "target" if name == "flops" else f"{name} target"
    if match is None or match[2].upper() not in ("", "%", "X", *measure.units):
        raise UserError(f"{what} {shown!r} is not understood; {_ways_to_write(measure)}")
    number, unit = float(match[1]), match[2].upper()
    if unit == "X":
        if number < 1:
            raise UserError(f"{what} {text!r} asks for a slower network; a speed-up is at least 1x")
        if number > MOST_SPEED_UP:
            raise UserError(f"{what} {text!r} leaves nothing; {_ways_to_write(measure)}")
        return TargetTerm(name, text, kept=1 / number)
    if unit in ("", "%"):
        kept_fraction = number / 100 if unit == "%" else number
        if not 0 < kept_fraction <= 1:
            raise UserError(f"{what} {text!r} is not a kept fraction between 0 and 1; {_ways_to_write(measure)}")
        return TargetTerm(name, text, kept=kept_fraction)
    amount = number * measure.units[unit]
    if not 0 < amount < MOST_AMOUNT:
        wrong = "leaves nothing" if amount == 0 else "is more than any network costs"
        raise UserError(f"{what} {text!r} {wrong}; {_ways_to_write(measure)}")
    return TargetTerm(name, text, amount=amount)


def beyond_flops(target_text: str) -> str:
    """The text of a target (`Target.asked`) that bounds more than FLOPs; an empty text for one of FLOPs alone."""
    return target_text if find_measure(target_text.partition(" ")[0]) else ""


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read a comma-separated list of targets, each once, in the order given; all of the same measures."""
    pieces = [piece for piece in (piece.strip() for piece in text.split(",")) if piece]
    if not pieces:
        raise UserError(f"no target in {text!r}; {_ways_to_write(MEASURES['flops'])}")
    return check_targets(tuple(map(parse_target, pieces)))


def check_targets(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """Each target once; UserError unless all ask of the same measures."""
    for target in targets[1:]:
        if target.measures != targets[0].measures:
            raise UserError(
                f"targets {targets[0].asked!r} and {target.asked!r} do not ask of the same measures; "
                "search them one after the other"
            )
    return tuple(dict.fromkeys(targets))


Targets = Annotated[
    tuple[Target, ...],
    BeforeValidator(lambda value: parse_targets(value) if isinstance(value, str) else value),
    AfterValidator(check_targets),
]
"""A field of a pydantic model for the targets of one search: a list of them, or their comma-separated text."""
