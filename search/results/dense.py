"""The figures of the network before compression, which tables compare with, and their record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.tasks.metric import ACCURACY, Metric


@dataclass(frozen=True)
class Dense:
    """The network before compression; a score that was not measured is None."""

    flops: int
    params: int
    bytes: int
    search_score: float | None
    test_score: float | None
    metric: Metric = ACCURACY
    others: tuple[Metric, ...] = ()
    """Metrics that are shown and do not rank."""
    other_scores: Mapping[str, float] = field(default_factory=dict)
    """Of these, by split and name: `test_PSNR`."""

    def named_score(self, score: float) -> str:
        """`91.25%` of accuracy, which needs no name; `mIoU 0.79`."""
        text = self.metric.value_text(score)
        return text if self.metric == ACCURACY else f"{self.metric.name} {text}"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Dense:
        """What `record` makes of one; TypeError or ValueError if it is none."""
        fields = dict(record)
        metric = Metric.model_validate(fields.pop("metric", ACCURACY))
        others = tuple(Metric.model_validate(other) for other in fields.pop("other_metrics", ()))
        scores = {f"{split}_score": fields.pop(f"{split}_{metric.name}", None) for split in ("search", "test")}
        names = [f"{split}_{other.name}" for split in ("search", "test") for other in others]
        other_scores = {name: fields.pop(name) for name in names if name in fields}
        return cls(**fields, **scores, metric=metric, others=others, other_scores=other_scores)

    def record(self) -> dict[str, Any]:
        """As plain JSON, scores by the metric's name: `test_accuracy`. A metric is recorded if it is another."""
        costs = {"flops": self.flops, "params": self.params, "bytes": self.bytes}
        name = self.metric.name
        scores = {f"search_{name}": self.search_score, f"test_{name}": self.test_score}
        metrics = {} if self.metric == ACCURACY else {"metric": self.metric.model_dump()}
        others = {"other_metrics": [other.model_dump() for other in self.others]} if self.others else {}
        return costs | scores | dict(self.other_scores) | metrics | others
