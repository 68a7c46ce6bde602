"""Which channels can leave the groups of grouped convolutions and group norms equally large.

Behind a channel shuffle, a channel may reach two groups of the next layer at once; in a residual stream that grows by
concatenation, each layer's channels lie in other groups. Then only some of the channels can go, or those of several
layers only together: how many of each kind is a small integer program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.graph.channels import block_width
from methods.graph.flow.places import Place
from methods.graph.narrow import channels_of

Indices = Mapping[int, Mapping[Place, set[int]]]
"""Component -> place -> its indices there."""
Kind = frozenset[tuple[tuple[Place, int], int]]
"""How often a component reaches each block of each place: those of one kind can take each other's part."""
_SPLITS = 4  # the most channels of one kind that a step of a ladder removes


@dataclass(frozen=True)
class _Blocks:
    """The equal parts of a place that must stay equal."""

    width: int
    number: int


def balance_sets(sets: Sequence[list[int]], indices: Indices, modules: Mapping[str, nn.Module]) -> list[list[int]]:
    """The sets of components, without those that no balanced removal includes; sets that need each other are joined.

    A set that cannot be balanced stays as it is.
    """
    blocks = _find_blocks(sets, indices, modules)
    result: list[list[int]] = []
    unbalanced: list[list[int]] = []
    for members in sets:
        kinds = _sort_by_kind(members, indices, blocks)
        if _is_balanced(kinds, blocks):
            result.append(members)
        elif removable := _balanced_members(kinds, blocks):
            result.append(removable)
        else:
            unbalanced.append(members)
    for joined in _join_sets(unbalanced, indices, blocks):
        members = [component for part in joined for component in part]
        removable = _balanced_members(_sort_by_kind(members, indices, blocks), blocks) if len(joined) > 1 else []
        result += [removable] if removable else joined
    return result


def _find_blocks(sets: Sequence[list[int]], indices: Indices, modules: Mapping[str, nn.Module]) -> dict[Place, _Blocks]:
    places = {place for members in sets for component in members for place in indices[component]}
    blocks = {}
    for place in places:
        module = modules.get(place.name)
        width = block_width(module, place.side) if place.dim is None else None
        if module is not None and width is not None:
            blocks[place] = _Blocks(width, channels_of(module, place.side) // width)
    return blocks


def _sort_by_kind(members: Sequence[int], indices: Indices, blocks: Mapping[Place, _Blocks]) -> dict[Kind, list[int]]:
    kinds: dict[Kind, list[int]] = {}
    for component in members:
        reached = Counter(
            (place, index // blocks[place].width if place in blocks else 0)
            for place, found in indices[component].items()
            for index in found
        )
        kinds.setdefault(frozenset(reached.items()), []).append(component)
    return kinds


def _is_balanced(kinds: Mapping[Kind, list[int]], blocks: Mapping[Place, _Blocks]) -> bool:
    """Whether equal shares of all kinds can go, in more than one step."""
    sizes = np.array([len(members) for members in kinds.values()])
    return bool(np.gcd.reduce(sizes) > 1) and not (_differences(list(kinds), blocks) @ sizes).any()


def _differences(kinds: Sequence[Kind], blocks: Mapping[Place, _Blocks]) -> npt.NDArray[np.int64]:
    """(rows, kinds) by how much more a channel of a kind takes from a block of a place than from its first one."""
    counts = [dict(kind) for kind in kinds]
    touched = dict.fromkeys(place for kind in kinds for (place, _), _ in kind if place in blocks)
    rows = [
        [count.get((place, block), 0) - count.get((place, 0), 0) for count in counts]
        for place in touched
        for block in range(1, blocks[place].number)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(kinds))


def _balanced_members(kinds: Mapping[Kind, list[int]], blocks: Mapping[Place, _Blocks]) -> list[int]:
    """The components that go in equal steps, many of them and in many steps; none if no two steps are balanced.

    A ladder of n steps takes as many of each kind in every step, so n times that must be there.
    """
    # Here, because it takes a third of a second to import and most networks have no groups that need it.
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = np.array([len(members) for members in kinds.values()])
    balanced = LinearConstraint(_differences(list(kinds), blocks), 0, 0)
    best, best_worth = np.zeros(len(sizes), dtype=np.int64), 0.0
    for steps in sorted({int(size) // part for size in sizes for part in range(1, _SPLITS + 1)}, reverse=True):
        if steps < 2:
            break
        solved = milp(-np.ones(len(sizes)), constraints=balanced, integrality=1, bounds=Bounds(0, sizes // steps))
        removed = np.zeros_like(sizes) if solved.x is None else np.rint(solved.x).astype(np.int64)
        # The last step is never taken, and a ladder of few steps hits few targets.
        if (worth := float(removed.sum() * (steps - 1) ** 2 / steps)) > best_worth:
            best, best_worth = removed * steps, worth
    return [component for members, number in zip(kinds.values(), best, strict=True) for component in members[:number]]


def _join_sets(sets: Sequence[list[int]], indices: Indices, blocks: Mapping[Place, _Blocks]) -> list[list[list[int]]]:
    """Sets with blocked places in common, directly or through others."""
    joined: list[tuple[set[Place], list[list[int]]]] = []
    for members in sets:
        places = {place for component in members for place in indices[component] if place in blocks}
        parts = [members]
        for other in [other for other in joined if other[0] & places]:
            joined.remove(other)
            places |= other[0]
            parts = [*other[1], *parts]
        joined.append((places, parts))
    return [parts for _, parts in joined]
