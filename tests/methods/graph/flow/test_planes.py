"""Planes of several operands: which describe the same cut, and what their meeting means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.graph.flow.labels import FIXED, FREE, Labels
from methods.graph.flow.planes import Value, concatenate, contract, join_elements, match_planes

# Labels 1 to 4 are channels of one tensor, 5 to 8 those of another, 9 to 11 positions.
A, B, POSITIONS = torch.arange(1, 5), torch.arange(5, 9), torch.arange(9, 12)
PAIRS = {frozenset({channel, channel + 4}) for channel in A.tolist()}


def new_labels() -> Labels:
    labels = Labels()
    labels.add_dimension("all", 0, 11)
    return labels


def united(labels: Labels) -> set[frozenset[int]]:
    components = labels.components().tolist()
    sets = {frozenset(i for i, c in enumerate(components) if c == component) for component in components}
    return {members for members in sets if len(members) > 1}


def pinned_labels(labels: Labels) -> set[int]:
    components = labels.components()
    reasons = labels.pinned(components)
    return {label for label, component in enumerate(components.tolist()) if component in reasons}


def value(*shape: int, planes: tuple[Tensor, ...] = (), is_data: bool = True) -> Value:
    return Value(torch.Size(shape), planes, is_data)


def along(labels: Tensor, dim: int, rank: int) -> Tensor:
    return labels.reshape([-1 if d == dim else 1 for d in range(rank)])


def test_planes_of_the_same_dimensions_are_one_cut() -> None:
    channels, tokens = along(A, 0, 2), along(POSITIONS, 1, 2)
    rows = match_planes([value(4, 3, planes=(channels, tokens)), value(4, 3, planes=(tokens, along(B, 0, 2)))])
    assert [[None if plane is None else plane.flatten().tolist() for plane in row] for row in rows] == [
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [[9, 10, 11], [9, 10, 11]],
    ]


def test_a_scale_per_head_meets_the_channels_of_heads() -> None:
    rows = match_planes([value(2, 2, planes=(A.reshape(2, 2),)), value(2, 1, planes=(along(B[:2], 0, 2),))])
    assert len(rows) == 1


def test_elements_that_meet_are_united_and_ranks_are_broadcast() -> None:
    labels = new_labels()
    left, right = value(2, 4, 3, planes=(along(A, 1, 3),)), value(4, 3, planes=(along(B, 0, 2),))
    planes = join_elements(labels, [left, right], torch.Size((2, 4, 3)), "add")
    assert united(labels) == PAIRS
    assert [plane.shape for plane in planes] == [(1, 4, 1)]
    assert pinned_labels(labels) == set()


@pytest.mark.parametrize(("is_data", "pinned"), [(True, {1, 2, 3, 4}), (False, set())])
def test_data_without_these_channels_pins_and_what_is_made_from_shapes_does_not(
    is_data: bool, pinned: set[int]
) -> None:
    labels = new_labels()
    operands = [value(4, 3, planes=(along(A, 0, 2),)), value(4, 1, is_data=is_data)]
    planes = join_elements(labels, operands, torch.Size((4, 3)), "add")
    assert pinned_labels(labels) == pinned
    assert len(planes) == (not is_data)


@pytest.mark.parametrize("first", [0, 1])
def test_padding_takes_the_partners_label_and_data_fixes_the_position(first: int) -> None:
    labels = new_labels()
    operands = [value(4, planes=(torch.tensor([1, 2, FREE, FIXED]),)), value(4, planes=(B,))]
    (plane,) = join_elements(labels, [operands[first], operands[1 - first]], torch.Size((4,)), "add")
    assert plane.tolist() == [*((1, 2) if first == 0 else (5, 6)), 7, FIXED]
    assert united(labels) == {frozenset({1, 5}), frozenset({2, 6})}
    assert pinned_labels(labels) == {8}


def test_parts_put_one_after_another_keep_their_labels() -> None:
    parts = [value(1, 4, 2, planes=(along(A, 1, 3),)), value(1, 2, 2), value(1, 1, 2, is_data=False)]
    (plane,) = concatenate(new_labels(), parts, 1, "cat")
    assert plane.flatten().tolist() == [1, 2, 3, 4, FIXED, FIXED, FREE]


def test_across_a_concatenation_channels_go_together() -> None:
    """A class token and patches: channels of both, patches of one."""
    labels = new_labels()
    token = value(1, 1, 4, planes=(along(A, 2, 3),))
    patches = value(1, 3, 4, planes=(along(B, 2, 3), along(POSITIONS, 1, 3)))
    planes = concatenate(labels, [token, patches], 1, "cat")
    assert united(labels) == PAIRS
    assert sorted(tuple(plane.shape) for plane in planes) == [(1, 1, 4), (1, 4, 1)]
    labels = new_labels()
    concatenate(labels, [token, value(1, 3, 4)], 1, "cat")
    assert pinned_labels(labels) == {1, 2, 3, 4}, "patches that have no labels are data"


def test_a_summed_index_unites_both_sides() -> None:
    labels = new_labels()
    contract(labels, value(2, 4, planes=(along(A, 1, 2),)), value(4, 3, planes=(along(B, 0, 2),)), 1, 0, 0, "mm")
    assert united(labels) == PAIRS


def test_batch_dimensions_are_united_index_by_index() -> None:
    """(2, 1, 2) @ (2, 2, 1): two products, each with channels of its own."""
    labels = new_labels()
    left = value(2, 1, 2, planes=(A.reshape(2, 1, 2),))
    right = value(2, 2, 1, planes=(B.reshape(2, 2, 1),))
    contract(labels, left, right, 2, 1, 1, "bmm")
    assert united(labels) == PAIRS


def test_without_batch_dimensions_variation_across_is_united() -> None:
    labels = new_labels()
    contract(labels, value(2, 2, planes=(A.reshape(2, 2),)), value(2, 3, planes=(along(B[:2], 0, 2),)), 1, 0, 0, "mm")
    assert united(labels) == {frozenset({1, 3, 5}), frozenset({2, 4, 6})}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("is_data", "pinned"), [(True, {1, 2, 3, 4}), (False, set())])
def test_a_side_that_is_data_pins_the_other(side: str, is_data: bool, pinned: set[int]) -> None:
    labels = new_labels()
    if side == "right":
        contract(labels, value(2, 4, planes=(along(A, 1, 2),)), value(4, 3, is_data=is_data), 1, 0, 0, "mm")
    else:
        contract(labels, value(2, 4, is_data=is_data), value(4, 3, planes=(along(A, 0, 2),)), 1, 0, 0, "mm")
    assert pinned_labels(labels) == pinned
    assert united(labels) == set()
