"""Targets: how a user says what the compressed network may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.errors import UserError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_FORM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%|x|K|M|G|)", re.IGNORECASE | re.ASCII)
_WAYS = "write a kept fraction (0.5), an amount (60M, 1.2G) or a speed-up (2.12x)"

TOLERANCE = 0.005
"""A target is met by kept FLOPs at most this fraction of the dense network's below it, and never above it."""


@dataclass(frozen=True)
class Target:
    """A FLOPs budget. `asked` is what the user wrote; exactly one reading of it is set."""

    asked: str
    kept: float | None = None
    amount: float | None = None

    def flops(self, dense: int) -> int:
        """The budget in multiply-accumulates, given those of the dense network."""
        if self.amount is not None:
            return int(self.amount)
        assert self.kept is not None
        return int(self.kept * dense)


def parse_target(text: str) -> Target:
    """Read `0.5`, `50%`, `60M`, `1.2G` or `2.12x`; UserError for anything else."""
    text = text.strip()
    match = _FORM.fullmatch(text)
    if match is None:
        raise UserError(f"target {text!r} is not understood; {_WAYS}")
    number, unit = float(match[1]), match[2].upper()
    if unit == "X":
        if number < 1:
            raise UserError(f"target {text!r} asks for a slower network; a speed-up is at least 1x")
        return Target(text, kept=1 / number)
    if unit in ("", "%"):
        kept = number / 100 if unit == "%" else number
        if not 0 < kept <= 1:
            raise UserError(f"target {text!r} is not a kept fraction between 0 and 1; {_WAYS}")
        return Target(text, kept=kept)
    if number == 0:
        raise UserError(f"target {text!r} leaves nothing; {_WAYS}")
    return Target(text, amount=number * _UNITS[unit])


def parse_targets(text: str) -> list[Target]:
    """Read a comma-separated list of targets, each once, in the order given."""
    parts = [part for part in (piece.strip() for piece in text.split(",")) if part]
    if not parts:
        raise UserError(f"no target in {text!r}; {_WAYS}")
    return [parse_target(part) for part in dict.fromkeys(parts)]


def flops_text(flops: float) -> str:
    """A count of multiply-accumulates with its unit, three figures."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(flops) >= size:
            return f"{flops / size:.3g}{unit}" if flops < 999.5 * size else f"{flops / size:.0f}{unit}"
    return f"{flops:.0f}"
