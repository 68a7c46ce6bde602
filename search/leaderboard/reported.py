"""Figures that papers report, to stand beside measured ones: never measured here, never ranked.

Top-1 and top-5 accuracies in 0..1. `reduction` is the share of the dense network's FLOPs that is saved, as the paper
counts them; several give a speed-up instead, and 1 − 1 / speed-up is taken.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RESREP = "ResRep, ICCV 2021, arXiv 2007.03260"
DEPGRAPH = "DepGraph, CVPR 2023, arXiv 2301.12900"
SRR_GR = "SRR-GR, CVPR 2021, arXiv 2104.03438"
LRF = "LRF, AAAI 2021"
LFPC = "LFPC, CVPR 2020"
HRANK = "HRank, CVPR 2020, arXiv 2002.10179"
AMC = "AMC, ECCV 2018, arXiv 1802.03494"
SCP = "SCP, ICML 2020"
KSE = "KSE, CVPR 2019, arXiv 1812.04368"
KSE_TABLE = "as listed in KSE, CVPR 2019, arXiv 1812.04368"
PPSM = "PPSM, by its authors"
ACRA = "ACRA, abstract"


@dataclass(frozen=True)
class Reported:
    """One line of a table in a paper; figures that it does not give are None."""

    network: str
    data: str
    method: str
    source: str
    accuracy: float | None = None
    dense_accuracy: float | None = None
    reduction: float | None = None
    top5: float | None = None
    compression: float | None = None
    """Dense bytes / compressed bytes."""
    drop: float | None = None
    """Accuracy lost, where only that is given."""

    @property
    def kept_flops(self) -> float | None:
        return None if self.reduction is None else 1 - self.reduction

    @property
    def delta_points(self) -> float | None:
        """Against the paper's own dense network, percentage points."""
        if self.drop is not None:
            return -100 * self.drop
        if self.accuracy is None or self.dense_accuracy is None:
            return None
        return 100 * (self.accuracy - self.dense_accuracy)

    def as_record(self) -> dict[str, Any]:
        """By column, with what follows from the paper's figures."""
        return {**asdict(self), "kept_flops": self.kept_flops, "delta_points": self.delta_points}


def reported_for_task(title: str) -> list[Reported]:
    """What papers report for a task, given as a ledger calls it: `resnet56 on cifar10`."""
    network, _, data = title.lower().partition(" on ")
    return [paper for paper in REPORTED if paper.network == network and paper.data in data]


def _saved_by_speed_up(factor: float) -> float:
    return 1 - 1 / factor


REPORTED = (
    Reported("resnet56", "cifar10", "ResRep", RESREP, 0.9371, 0.9371, 0.529),
    Reported("resnet56", "cifar10", "DepGraph, group", DEPGRAPH, 0.9377, 0.9353, _saved_by_speed_up(2.13)),
    Reported("resnet56", "cifar10", "DepGraph, group", DEPGRAPH, 0.9364, 0.9353, _saved_by_speed_up(2.57)),
    Reported("resnet56", "cifar10", "L1", f"{DEPGRAPH}, its code", 0.9293, 0.9353, _saved_by_speed_up(2.12)),
    Reported("resnet56", "cifar10", "BN scale", f"{DEPGRAPH}, its code", 0.9329, 0.9353, _saved_by_speed_up(2.12)),
    Reported("resnet56", "cifar10", "SRR-GR", SRR_GR, 0.9375, 0.9338, 0.538),
    Reported("resnet56", "cifar10", "PPSM", PPSM, 0.9357, 0.9344, 0.546),
    Reported("resnet56", "cifar10", "PPSM", PPSM, 0.9322, 0.9344, 0.7562),
    Reported("resnet56", "cifar10", "LRF-60", LRF, 0.9319, 0.9345, 0.739),
    Reported("resnet56", "cifar10", "LFPC", LFPC, 0.9334, 0.9359, 0.529),
    Reported("resnet56", "cifar10", "HRank", HRANK, 0.9317, 0.9326, 0.50),
    Reported("resnet56", "cifar10", "AMC", AMC, 0.9190, 0.9280, _saved_by_speed_up(2)),
    Reported("vgg16-cifar", "cifar10", "PPSM", PPSM, 0.9378, 0.9372, 0.662),
    Reported("vgg16-cifar", "cifar10", "SCP", SCP, 0.9379, 0.9385, 0.6623),
    Reported("vgg16-cifar", "cifar10", "HRank", HRANK, 0.9234, 0.9396, 0.653),
    Reported("vgg16-cifar", "cifar10", "ACRA", ACRA, reduction=0.2918, drop=0.0124),
    Reported("resnet50", "imagenet", "ResRep", RESREP, 0.7615, 0.7615, 0.545),
    Reported("resnet50", "imagenet", "KSE (G=5)", KSE, 0.7551, None, _saved_by_speed_up(3.8), 0.9269, 2.6),
    Reported("resnet50", "imagenet", "GDP-0.6", KSE_TABLE, 0.7189, None, _saved_by_speed_up(2.2), 0.9071),
    Reported("resnet50", "imagenet", "ResNet-50 (2×)", KSE_TABLE, 0.7230, None, _saved_by_speed_up(1.5), 0.9080),
    Reported("resnet50", "imagenet", "ThiNet-50", KSE_TABLE, 0.7101, None, _saved_by_speed_up(2.4), 0.9002, 2.0),
    Reported("googlenet", "imagenet", "KSE (G=4)", KSE, 0.7036, None, _saved_by_speed_up(2.1), 0.8979, 1.9),
    Reported("googlenet", "imagenet", "Deep k-means", KSE_TABLE, 0.6950, None, None, 0.8963, 1.5),
)
