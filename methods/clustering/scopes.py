"""Which layers share a codebook: all of a network, each layer alone, or by patterns of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from models.errors import UserError, unknown_name

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """Layers of one kernel shape that share a codebook of at most `largest` centroids."""

    name: str
    layers: tuple[str, ...]
    largest: int


def centroid_count(value: Any, of: str) -> int:
    """A number of centroids that a user gave; UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 4096:
        raise UserError(f"the number of centroids of {of} must be a whole number from 2 to 4096, not {value!r}")
    return value


def share_layers(scope: Any, shapes: Mapping[str, Shape], largest: int) -> tuple[Share, ...]:
    """The codebooks of layers with these kernel shapes.

    `scope` is "layer", "network", or a mapping from patterns of names to the largest number of centroids, such as
    {"conv1": 64, "*": 256}; a layer belongs to the first pattern that fits. Kernels of different shapes never share:
    "network" and patterns give one codebook per shape, named like "*:3x3".
    """
    if scope == "layer":
        return tuple(Share(name, (name,), largest) for name in shapes)
    if scope == "network":
        return _by_pattern({"*": largest}, shapes)
    if isinstance(scope, Mapping) and scope:
        return _by_pattern(scope, shapes)
    if isinstance(scope, str):
        raise unknown_name("scope of kernel-clustering", scope, ("layer", "network"))
    raise UserError(f"the scope must be 'layer', 'network' or a table like {{'conv1': 64, '*': 256}}, not {scope!r}")


def _by_pattern(patterns: Mapping[str, Any], shapes: Mapping[str, Shape]) -> tuple[Share, ...]:
    members: dict[tuple[str, Shape], list[str]] = {}
    for name, shape in shapes.items():
        pattern = next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
        if pattern is not None:
            members.setdefault((pattern, shape), []).append(name)
    used = {pattern for pattern, _ in members}
    for pattern in patterns:
        if pattern not in used and not any(fnmatchcase(name, pattern) for name in shapes):
            raise unknown_name("layer (or pattern of layers) that can be clustered:", pattern, shapes)
    return tuple(
        Share(f"{pattern}:{'x'.join(map(str, shape))}", tuple(layers), centroid_count(patterns[pattern], repr(pattern)))
        for (pattern, shape), layers in members.items()
    )


def ladder_of_k(largest: int, kernels: int) -> Sequence[int]:
    """Numbers of centroids, falling: `largest` and the powers of two below it, up to half of the kernels."""
    powers = [1 << exponent for exponent in range(12, 0, -1) if 1 << exponent < largest]
    return [k for k in (largest, *powers) if 2 * k <= kernels]
