"""Which groups are given up, against trials whose faults are planted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch

from methods.graph import culprits
from methods.graph.channels import Group, Slots
from methods.graph.culprits import Fault, give_up_groups

NAMES = [f"layer{number}" for number in range(12)]


def groups_of(names: Sequence[str]) -> list[Group]:
    one = torch.tensor([0])
    return [Group(name, 1, [Slots(f"{name}.conv", "out", one, one)]) for name in names]


def trial_of(*faults: set[str], module: str | None = None) -> Callable[[Sequence[Group]], Fault | None]:
    """Fails where all groups of one of the sets are tried together."""

    def trial(groups: Sequence[Group]) -> Fault | None:
        names = {group.name for group in groups}
        return next((Fault("+".join(sorted(fault)), module) for fault in faults if fault <= names), None)

    return trial


@pytest.mark.parametrize("faults", [[], [{"layer3"}], [{"layer0"}, {"layer11"}], [{"layer2", "layer7"}]])
def test_the_fewest_are_given_up(faults: list[set[str]]) -> None:
    groups, trial = groups_of(NAMES), trial_of(*faults)
    passed, reasons = give_up_groups(groups, trial)
    most = max(
        (subset for size in range(len(NAMES), -1, -1) for subset in itertools.combinations(groups, size)
         if trial(subset) is None),
        key=len,
    )  # fmt: skip
    assert len(passed) == len(most)
    assert trial(passed) is None
    assert {group.name for group in passed} | reasons.keys() == set(NAMES)
    assert set(reasons.values()) == {"+".join(sorted(fault)) for fault in faults}


def test_the_module_that_raised_names_the_culprit() -> None:
    tried = []

    def trial(groups: Sequence[Group]) -> Fault | None:
        tried.append([group.name for group in groups])
        return trial_of({"layer5"}, module="layer5")(groups)

    passed, reasons = give_up_groups(groups_of(NAMES), trial)
    assert reasons == {"layer5": "layer5"}
    assert tried == [NAMES, ["layer5"], [group.name for group in passed]]


def test_a_module_that_raises_for_groups_that_pass_alone_tries_each_of_them_alone_once() -> None:
    alone: list[str] = []
    pairs = [{f"layer{number}", f"layer{number + 1}"} for number in range(0, 12, 2)]

    def trial(groups: Sequence[Group]) -> Fault | None:
        alone.extend(group.name for group in groups if len(groups) == 1)
        return trial_of(*pairs, module="body")(groups)

    one = torch.tensor([0])
    groups = [Group(name, 1, [Slots(f"body.{name}", "out", one, one)]) for name in NAMES]
    passed, _ = give_up_groups(groups, trial)
    assert [group.name for group in passed] == NAMES[::2]
    assert all(alone.count(name) <= 2 for name in NAMES)  # halving may come down to the first group


@pytest.mark.parametrize("module", [None, ""])
def test_many_groups_that_fail_for_one_reason_take_few_trials(module: str | None) -> None:
    names = [f"block{number}" for number in range(64)]
    failing = {*names[1::2], "block10"}
    tried: list[int] = []

    def trial(groups: Sequence[Group]) -> Fault | None:
        tried.append(len(groups))
        return Fault("one line", module) if any(group.name in failing for group in groups) else None

    passed, reasons = give_up_groups(groups_of(names), trial)
    assert [group.name for group in passed] == [name for name in names if name not in failing]
    assert reasons == dict.fromkeys(failing, "one line")
    assert len(tried) < 2.5 * len(names)  # halving for each of 33 takes more than 200
    assert tried.count(1) <= len(names)


def test_no_group_is_tried_alone_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(culprits.time, "monotonic", lambda: next(clock))
    tried: list[int] = []

    def trial(groups: Sequence[Group]) -> Fault:
        tried.append(len(groups))
        return Fault("always", "body")

    one = torch.tensor([0])
    groups = [Group(name, 1, [Slots(f"body.{name}", "out", one, one)]) for name in NAMES]
    give_up_groups(groups, trial, patience=4)
    assert tried.count(1) <= 4


def test_when_time_is_over_what_has_passed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(culprits.time, "monotonic", lambda: next(clock))
    trial = trial_of({"layer4"}, {"layer8"}, {"layer10"})
    passed, reasons = give_up_groups(groups_of(NAMES), trial, patience=1)
    assert [group.name for group in passed] == NAMES[:4]
    assert reasons["layer4"] == "layer4"
    assert set(NAMES[5:]) == {name for name, reason in reasons.items() if reason.startswith("no time was left")}


def test_no_trial_of_no_groups_when_time_is_up() -> None:
    tried: list[int] = []

    def trial(groups: Sequence[Group]) -> Fault:
        tried.append(len(groups))
        return Fault("always")

    assert give_up_groups(groups_of(NAMES), trial, patience=-1)[0] == []
    assert tried == [len(NAMES)]
