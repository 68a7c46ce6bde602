"""`learned`: one candidate per target, without an allocation; the method finds its widths while it trains (ResRep)."""

from __future__ import annotations

import numpy as np

from methods.registry import method_info, methods
from models.errors import UserError
from search.strategies.contract import Program, Proposal
from search.strategies.problem import Problem


def learned_allocation(problem: Problem) -> Program:
    """One candidate per target; UserError if the method cannot learn."""
    if not method_info(problem.method).learns_allocation:
        able = ", ".join(name for name, info in methods().items() if info.learns_allocation)
        raise UserError(f"method {problem.method} does not learn its allocation; strategy learned needs one of: {able}")
    if problem.constrained:
        raise UserError(
            f"{problem.method} does not heed constraints on sites while it learns its own widths; "
            "give it an allocation with another strategy, e.g. lagrangian"
        )
    dense = problem.candidate(np.zeros(len(problem.sites), dtype=np.intp))
    proposals = []
    for target, budget in problem.targets:
        if target.measures != ("flops",):
            raise UserError(
                f"{problem.method} learns its widths for a target of FLOPs alone, not for {target.asked!r}; "
                "give it an allocation with another strategy, e.g. lagrangian"
            )
        kept_flops = budget.limits["flops"] / problem.cost.dense.flops
        candidate = dense.model_copy(update={"learned_target": kept_flops})
        proposals.append(Proposal(candidate, "search", "learned", target))
    yield proposals
