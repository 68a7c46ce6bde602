"""Labels: what is united, what is pinned and why, on tensors small enough to be read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.graph.flow.labels import FIXED, FREE, Labels, compact, varying_dims


def united(labels: Labels, *more: Tensor) -> list[set[int]]:
    """The sets of several labels that belong together, the smallest label first."""
    components = labels.components(more)
    sets: dict[int, set[int]] = {}
    for label, component in enumerate(components.tolist()):
        sets.setdefault(component, set()).add(label)
    return sorted((members for members in sets.values() if len(members) > 1), key=min)


def pinned_labels(labels: Labels) -> dict[int, str]:
    components = labels.components()
    reasons = labels.pinned(components)
    return {label: reasons[component] for label, component in enumerate(components.tolist()) if component in reasons}


def test_every_index_has_a_label_of_its_own() -> None:
    labels = Labels()
    first, second = labels.add_dimension("conv.weight", 0, 3), labels.add_dimension("conv", "in", 2)
    assert first.tolist() + second.tolist() == [1, 2, 3, 4, 5]
    assert [(d.name, d.dim, d.first, d.size) for d in labels.dimensions] == [
        ("conv.weight", 0, 1, 3),
        ("conv", "in", 4, 2),
    ]
    assert united(labels) == []


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 3, 1), (4, 3, 1), (4, 1, 2), (1, 1, 1)])
def test_compact_planes_are_as_small_as_they_vary(shape: tuple[int, ...]) -> None:
    plane = torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape)
    assert torch.equal(compact(plane.expand(4, 3, 2).clone()), plane), "equal entries"
    assert torch.equal(compact(plane.expand(4, 3, 2)), plane), "no memory of its own along expanded dimensions"
    assert varying_dims(plane) == {d for d, size in enumerate(shape) if size > 1}


def test_labels_at_the_same_position_are_united_under_broadcasting() -> None:
    labels = Labels()
    rows, columns = labels.add_dimension("a", 0, 2), labels.add_dimension("b", 0, 2)  # 1 2, 3 4
    labels.unite(rows, columns.flip(0), "sum")
    assert united(labels) == [{1, 4}, {2, 3}]
    scale = labels.add_dimension("c", 0, 1)  # 5
    labels.unite(rows, scale, "broadcast")
    assert united(labels) == [{1, 2, 3, 4, 5}]
    assert pinned_labels(labels) == {}


def test_free_entries_unite_nothing_and_fixed_ones_pin() -> None:
    labels = Labels()
    row = labels.add_dimension("a", 0, 4)
    labels.unite(row, torch.tensor([FREE, FIXED, 4, FIXED]), "add in conv")
    assert united(labels) == [{3, 4}]
    assert pinned_labels(labels) == {2: "add in conv", 3: "add in conv", 4: "add in conv"}


def test_the_first_reason_counts_for_a_whole_component() -> None:
    labels = Labels()
    row = labels.add_dimension("a", 0, 3)
    labels.pin(row[:1], "first")
    labels.pin(row, "second")
    labels.unite(row[1:2], row[2:], "sum")
    assert pinned_labels(labels) == {1: "first", 2: "second", 3: "second"}


def test_more_pairs_are_taken_for_one_question_alone() -> None:
    labels = Labels()
    labels.add_dimension("a", 0, 4)
    assert united(labels, torch.tensor([[1, 3], [3, 4]])) == [{1, 3, 4}]
    assert united(labels) == []


def test_a_plane_that_must_not_vary_is_united_along_that_dimension() -> None:
    labels = Labels()
    plane = labels.add_dimension("a", 0, 6).reshape(2, 3)  # 1 2 3 / 4 5 6
    fixed = labels.fix(plane, [0], "mean")
    assert fixed is not None
    assert fixed.tolist() == [[4, 5, 6]]
    assert united(labels) == [{1, 4}, {2, 5}, {3, 6}]
    assert pinned_labels(labels) == {}


def test_labels_with_nowhere_left_to_vary_stay() -> None:
    labels = Labels()
    row = labels.add_dimension("a", 0, 3).reshape(1, 3)
    assert labels.fix(row, [1], "mean over channels") is None
    assert pinned_labels(labels) == dict.fromkeys([1, 2, 3], "mean over channels")


def test_padding_is_no_partner_and_data_makes_the_whole_line_data() -> None:
    """Lines of the second dimension: two labels and padding, a label and data."""
    labels = Labels()
    labels.add_dimension("a", 0, 3)
    fixed = labels.fix(torch.tensor([[1, 2, FREE], [3, FIXED, FREE]]), [1], "max_pool")
    assert fixed is not None
    assert fixed.tolist() == [[2], [FIXED]]
    assert united(labels) == [{1, 2}]
    assert pinned_labels(labels) == {3: "max_pool"}
