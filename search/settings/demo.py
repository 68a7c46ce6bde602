"""The embedded default: real digits, a small network trained on the spot, three targets, both ACRA strategies."""

from __future__ import annotations

from search.candidate import Recipe
from search.settings import build
from search.settings.config import RunConfig

TARGETS = "0.5,0.25,0.1"
RECIPE = Recipe(epochs=2, batch_size=64, lr=0.05)


def demo_config(results: str) -> RunConfig:
    """A search that takes a minute or two on two cores; the baseline is trained first if it is not there yet."""
    return build.search_config(
        task=build.task(network=None, weights=None, data=None, mean=None, std=None, results=results),
        method="l1",
        options=[],
        strategies="acra-uniform,acra-sensitivity",
        targets=TARGETS,
        recipe=RECIPE,
        final_epochs=6,
        results=results,
        name=None,
    )
