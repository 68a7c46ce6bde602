"""Which of several groups of channels is at fault when a trial of all of them fails.

A failed forward pass names the module in which it failed: of the groups with channels there, those that fail alone
are given up. Where outputs differ, halving finds the first group in the order of execution with which the trial fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from methods.graph.channels import Group


@dataclass(frozen=True)
class Fault:
    """Why a trial fails.

    Attributes:
        reason: for the user.
        module: the module that raised; None where the network runs.
    """

    reason: str
    module: str | None = None


Trial = Callable[[Sequence[Group]], Fault | None]


def give_up_groups(groups: Sequence[Group], trial: Trial) -> tuple[list[Group], dict[str, str]]:
    """The groups that pass the trial together, in their order, and a reason for each that was given up.

    Args:
        groups: in the order of execution.
        trial: tries some of them at once; None if they pass.
    """
    remaining = list(groups)
    reasons: dict[str, str] = {}
    while remaining and (fault := trial(remaining)) is not None:
        culprits = _groups_at(fault.module, remaining, trial) or [_first_culprit(remaining, trial, fault)]
        for group, reason in culprits:
            remaining.remove(group)
            reasons[group.name] = reason
    return remaining, reasons


def _groups_at(module: str | None, groups: Sequence[Group], trial: Trial) -> list[tuple[Group, str]]:
    """Groups with channels in the module that raised which fail alone as well."""
    if module is None:
        return []
    inside = [group for group in groups if any(_within(slots.name, module) for slots in group.slots)]
    faults = [(group, trial([group])) for group in inside]
    return [(group, fault.reason) for group, fault in faults if fault is not None]


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _first_culprit(groups: Sequence[Group], trial: Trial, fault: Fault) -> tuple[Group, str]:
    """The first group with which the trial of it and all before it fails."""
    passing, failing = 0, len(groups)
    while failing - passing > 1:
        middle = (passing + failing) // 2
        found = trial(groups[:middle])
        if found is None:
            passing = middle
        else:
            failing, fault = middle, found
    return groups[failing - 1], fault.reason
