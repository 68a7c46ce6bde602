"""How sentences put numbers."""

from __future__ import annotations


def plural(count: float, noun: str) -> str:
    """`1 seed`, `3 seeds`, `0.5 epochs`: a number with its noun, for nouns that take an s."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"
