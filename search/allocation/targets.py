"""Targets: how a user says what the compressed network may cost, in one measure or in several that must all be met."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from models.errors import UserError

MOST_AMOUNT = 2.0**62  # figures of costs are 64-bit integers
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
    """Something that a network costs, counted in whole numbers."""

    name: str
    units: Mapping[str, float]
    """Unit of an amount, in capitals -> what it stands for."""
    examples: str
    number: Callable[[float], str]
    """A figure in words."""
    noun: str = ""

    def text(self, value: float) -> str:
        """A figure with what it counts."""
        return f"{self.number(value)} {self.noun}".rstrip()


_COUNTS = {"K": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1.0, **_COUNTS, **{f"{unit}B": size for unit, size in _COUNTS.items()}}
_TIMES = {"US": 1e3, "MS": 1e6, "S": 1e9}  # in nanoseconds
MEASURES: dict[str, Measure] = {
    each.name: each
    for each in (
        Measure("flops", _COUNTS, "60M, 1.2G", flops_text, "FLOPs"),
        Measure("params", _COUNTS, "200K, 2M", flops_text, "parameters"),
        Measure("bytes", _BYTES, "500K, 2MB", flops_text, "bytes"),
        Measure("latency", _TIMES, "800us, 5ms", latency_text),
    )
}
_FORM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*|%)", re.ASCII)


def _ways(measure: Measure) -> str:
    times = "a speed-up (2.12x)" if measure.name in ("flops", "latency") else "a factor (2.12x)"
    return f"write a kept fraction (0.5), an amount ({measure.examples}) or {times}"


@dataclass(frozen=True)
class Part:
    """What one measure may be at most; exactly one reading of it is set."""

    measure: str
    asked: str
    kept: float | None = None
    amount: float | None = None

    def limit(self, dense: int) -> int:
        """The most that is allowed, given the dense network's figure."""
        if self.amount is not None:
            return int(self.amount)
        assert self.kept is not None
        return int(self.kept * dense)


@dataclass(frozen=True)
class Target:
    """A budget. `asked` is what the user wrote; all parts must be met.

    A pydantic model may have fields of this type: they take a target or its text, and are written as the text.
    """

    asked: str
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return self.asked

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(part.measure for part in self.parts)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema()
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: value if isinstance(value, cls) else parse_target(read(value)),
            text,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=text),
        )


def parse_target(text: str) -> Target:
    """Read `0.5`, `60M`, `2.12x` (FLOPs), `params 0.4`, or `flops 0.5 + latency 5ms`; UserError for anything else."""
    pieces = [piece.strip() for piece in text.strip().split("+")]
    parts = tuple(_part(piece, text.strip()) for piece in pieces)
    if len({part.measure for part in parts}) < len(parts):
        raise UserError(f"target {text.strip()!r} names a measure twice; name each once")
    parts = tuple(sorted(parts, key=lambda part: list(MEASURES).index(part.measure)))
    if [part.measure for part in parts] == ["flops"]:
        return Target(parts[0].asked, parts)
    return Target(" + ".join(f"{part.measure} {part.asked}" for part in parts), parts)


def _part(piece: str, whole: str) -> Part:
    word, _, rest = piece.partition(" ")
    name = word.lower()
    if name in MEASURES and rest.strip():
        return parse_part(name, rest)
    return parse_part("flops", piece, whole)


def parse_part(name: str, text: str, whole: str | None = None) -> Part:
    """Read one measure's `0.5`, `50%`, `2.12x` or amount; UserError for anything else."""
    text, measure = text.strip(), MEASURES[name]
    shown = whole or text
    match = _FORM.fullmatch(text)
    what = "target" if name == "flops" else f"{name} target"
    if match is None or match[2].upper() not in ("", "%", "X", *measure.units):
        raise UserError(f"{what} {shown!r} is not understood; {_ways(measure)}")
    number, unit = float(match[1]), match[2].upper()
    if unit == "X":
        if number < 1:
            raise UserError(f"{what} {text!r} asks for a slower network; a speed-up is at least 1x")
        if number > MOST_SPEED_UP:
            raise UserError(f"{what} {text!r} leaves nothing; {_ways(measure)}")
        return Part(name, text, kept=1 / number)
    if unit in ("", "%"):
        kept = number / 100 if unit == "%" else number
        if not 0 < kept <= 1:
            raise UserError(f"{what} {text!r} is not a kept fraction between 0 and 1; {_ways(measure)}")
        return Part(name, text, kept=kept)
    amount = number * measure.units[unit]
    if not 0 < amount < MOST_AMOUNT:
        wrong = "leaves nothing" if amount == 0 else "is more than any network costs"
        raise UserError(f"{what} {text!r} {wrong}; {_ways(measure)}")
    return Part(name, text, amount=amount)


def beyond_flops(asked: str) -> str:
    """A target as `Target.asked` has it if it speaks of more than FLOPs, else nothing."""
    return asked if asked.partition(" ")[0] in MEASURES else ""


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read a comma-separated list of targets, each once, in the order given; all of the same measures."""
    parts = [part for part in (piece.strip() for piece in text.split(",")) if part]
    if not parts:
        raise UserError(f"no target in {text!r}; {_ways(MEASURES['flops'])}")
    return check_targets(tuple(map(parse_target, parts)))


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
    BeforeValidator(lambda given: parse_targets(given) if isinstance(given, str) else given),
    AfterValidator(check_targets),
]
"""A field of a pydantic model for the targets of one search: a list of them, or their comma-separated text."""


def combined(given: Mapping[str, str | None]) -> str:
    """Lists of targets a measure (`flops` -> `0.5,0.3`) as one list of targets, each with each."""
    lists = [[f"{name} {piece.strip()}" if len(_named(given)) > 1 or name != "flops" else piece.strip()
              for piece in text.split(",") if piece.strip()] for name, text in _named(given)]  # fmt: skip
    for (name, text), pieces in zip(_named(given), lists, strict=True):
        if not pieces:
            raise UserError(f"no {name} target in {text!r}; {_ways(MEASURES[name])}")
    return ",".join(" + ".join(each) for each in itertools.product(*lists))


def _named(given: Mapping[str, str | None]) -> Sequence[tuple[str, str]]:
    return [(name, text) for name, text in given.items() if text is not None]
