"""Files as authors outside of this repository write them: a method with a helper beside it, a strategy, a package."""

from __future__ import annotations

from pathlib import Path

METHOD = """
from helper import largest
from methods.base import Compressor, MethodInfo, copy_network
from methods.graph.channel_sites import ChannelGroups, removal_levels
from methods.graph.filter_norms import filters_of, mean_per_channel


class LargestWeight(Compressor):
    info = MethodInfo("largest-weight", "smallest largest weight first", "a test", options={"power": 1.0})

    def __init__(self, network, example, options):
        super().__init__(network, example, options)
        self._channels = ChannelGroups(network, example)
        self.sites, self.skipped, self.cost = self._channels.sites, self._channels.skipped, self._channels.cost

    def compress(self, allocation):
        small, kept = copy_network(self.network), {}
        for level, group in zip(self.levels(allocation), self._channels.groups, strict=True):
            if level:
                scored = ((slots, largest(rows) ** self.options["power"]) for slots, rows in filters_of(small, group))
                scores = mean_per_channel(group, scored)
                kept[group.name] = (removal_levels(scores, group.partition) > int(level)).nonzero().flatten()
        self._channels.narrow_network(small, kept)
        return small


class Broken(LargestWeight):
    def compress(self, allocation):
        raise RuntimeError("nothing works")


class Nameless(Compressor):
    def compress(self, allocation):
        return self.network


NOTHING = 3
"""
HELPER = "def largest(rows):\n    return rows.abs().amax(1)\n"

STRATEGY = '''
import numpy as np

from search.allocation.allocate import project_shape
from search.strategies.contract import Proposal, StrategyInfo
from search.strategies.registry import register


@register(StrategyInfo("sloping-for-tests", "less and less is left, from site to site", "a test", needs_data=False))
def sloping(problem):
    slope = np.linspace(0.5, 1, len(problem.sites))
    shape = lambda scales: np.outer(scales, slope)
    yield [
        Proposal(problem.candidate(project_shape(shape, problem.sites, budget).levels), "search", "of its own", target)
        for target, budget in problem.targets
    ]


def plain(problem):
    """Says nothing of itself."""
    yield from sloping(problem)


def faulty(problem):
    yield [problem.sites[10**6]]
'''


def write_code(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "method.py").write_text(METHOD)
    (folder / "helper.py").write_text(HELPER)
    (folder / "strategy.py").write_text(STRATEGY)
    return folder


def install_package(site: Path) -> None:
    """What pip leaves of a package whose metadata name a method, a strategy and a network."""
    package = site / "fancypkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(METHOD.replace("from helper", "from fancypkg.helper"))
    (package / "helper.py").write_text(HELPER)
    (package / "strategy.py").write_text(STRATEGY)
    (package / "network.py").write_text(
        "from models.networks.catalog import build_network\n"
        "def build(num_classes, in_channels): "
        "return build_network('small', classes=num_classes, channels=in_channels)\n"
    )
    info = site / "fancypkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancypkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ratio_search.methods]\nfancy = fancypkg.method:LargestWeight\n"
        "[ratio_search.strategies]\nfancy-slope = fancypkg.strategy:sloping\n"
        "[ratio_search.networks]\nfancy-net = fancypkg.network:build\n"
    )
