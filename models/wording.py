"""How sentences put numbers."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`: a count with its noun, for nouns that take an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
