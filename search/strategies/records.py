"""The records of the strategies; each names its generator function."""

from __future__ import annotations

from models.deferred_code import DeferredCode
from search.strategies.contract import StrategyInfo
from search.strategies.registry import register

register(
    StrategyInfo(
        "acra-uniform",
        "one level for all sites, by bisection on the FLOPs",
        "ACRA, uniform allocation",
        needs_data=False,
    )
)(DeferredCode("search.strategies.acra:acra_uniform"))
register(
    StrategyInfo(
        "acra-sensitivity",
        "sites that hurt least when compressed alone are compressed most, by bisection on a common accuracy drop",
        "ACRA, sensitivity-based allocation",
    )
)(DeferredCode("search.strategies.acra:acra_sensitivity"))

# Of the best so many allocations each two have a child halfway between them (`lagrangian.py`).
LAGRANGIAN_PARENTS = 3
register(
    StrategyInfo(
        "lagrangian",
        "least summed drift by sensitivity curves, beside rivals, then halfway between the best of these",
        "Everett, 1963 (multipliers for discrete allocation)",
        takes_predictions=True,
        candidates=4 + LAGRANGIAN_PARENTS * (LAGRANGIAN_PARENTS - 1) // 2,  # solution and rivals, and the pairs
    )
)(DeferredCode("search.strategies.lagrangian:lagrangian_allocation"))
register(
    StrategyInfo(
        "learned", "the method finds its own widths while it trains", "ResRep, arXiv 2007.03260", needs_data=False
    )
)(DeferredCode("search.strategies.learned:learned_allocation"))
register(
    StrategyInfo(
        "random",
        "shapes at random, each projected onto the target: the control",
        "control",
        needs_data=False,
        samples=True,
    )
)(DeferredCode("search.strategies.sampling:random_shapes"))
register(
    StrategyInfo(
        "tpe",
        "shapes by a tree-structured Parzen estimator, starting from the uniform one",
        "Bergstra et al., NeurIPS 2011; Optuna",
        needs_data=False,
        samples=True,
    )
)(DeferredCode("search.strategies.sampling:tpe_shapes"))
register(
    StrategyInfo(
        "nsga2",
        "shapes by NSGA-II; with several targets one population for the whole front, limits between them included",
        "Deb et al., 2002; Optuna",
        needs_data=False,
        samples=True,
    )
)(DeferredCode("search.strategies.sampling:nsga2_front"))
