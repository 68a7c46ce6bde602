"""Which of several groups of channels is at fault when a trial of all of them fails.

A failed forward pass names the module in which it failed: of the groups with channels there, those that fail alone
are given up. Where outputs differ, halving finds the first group in the order of execution with which the trial fails;
once that has taken as many trials as there are groups left (many blocks of one kind), these are tried alone as well.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from methods.graph.channels import Group

PATIENCE = 120.0  # seconds; a trial of all groups alone takes some in large networks


@dataclass(frozen=True)
class Fault:
    """Why a trial fails.

    Attributes:
        reason: for the user.
        module: the module that raised, "" for the network's own code; None where the network runs.
    """

    reason: str
    module: str | None = None


Trial = Callable[[Sequence[Group]], Fault | None]


def give_up_groups(
    groups: Sequence[Group], trial: Trial, patience: float = PATIENCE
) -> tuple[list[Group], dict[str, str]]:
    """The groups that pass the trial together, in their order, and a reason for each that was given up.

    Args:
        groups: in the order of execution.
        trial: tries some of them at once; None if they pass.
        patience: seconds, after which no further culprit is looked for: what has passed by then is kept.
    """
    end = time.monotonic() + patience
    remaining, proven = list(groups), list[Group]()
    reasons: dict[str, str] = {}
    passing_alone: set[str] = set()  # a module may raise for each of its groups in turn
    halvings: Counter[str] = Counter()  # reason -> about how many trials halving has taken
    while remaining and (fault := trial(remaining)) is not None:
        if time.monotonic() > end:
            proven = proven if proven and trial(proven) is None else []
            untried = f"no time was left to try its channels: other ones took {patience:.0f} s"
            reasons.update({group.name: untried for group in remaining if group not in proven})
            return proven, reasons
        candidates = [group for group in remaining if group.name not in passing_alone]
        inside = [group for group in candidates if fault.module and touches_module(group, fault.module)]
        suspects = candidates if halvings[fault.reason] > len(candidates) else inside
        culprits = _failing_alone(suspects, trial, end, passing_alone)
        if not culprits:
            halvings[fault.reason] += len(remaining).bit_length()
            proven, culprit = _first_culprit(remaining, trial, fault)
            culprits = [culprit]
        for group, reason in culprits:
            remaining.remove(group)
            reasons[group.name] = reason
        proven = [group for group in proven if group.name not in reasons]
    return remaining, reasons


def _failing_alone(
    groups: Sequence[Group], trial: Trial, end: float, passing_alone: set[str]
) -> list[tuple[Group, str]]:
    """Groups that fail alone as well, each with its reason.

    Args:
        end: when no further group is tried.
        passing_alone: gets the names of those that pass.
    """
    culprits = []
    for group in groups:
        if time.monotonic() > end:
            break
        fault = trial([group])
        if fault is None:
            passing_alone.add(group.name)
        else:
            culprits.append((group, fault.reason))
    return culprits


def touches_module(group: Group, module: str) -> bool:
    """Whether channels of the group lie in a module or in those inside it."""
    return any(name == module or name.startswith(f"{module}.") for name in group.layers)


def _first_culprit(groups: Sequence[Group], trial: Trial, fault: Fault) -> tuple[list[Group], tuple[Group, str]]:
    """The groups that pass together, and the first one with which they do not."""
    passing, failing = 0, len(groups)
    while failing - passing > 1:
        middle = (passing + failing) // 2
        found = trial(groups[:middle])
        if found is None:
            passing = middle
        else:
            failing, fault = middle, found
    return list(groups[:passing]), (groups[passing], fault.reason)
