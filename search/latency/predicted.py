"""Latencies on devices that are not this one: predicted from their tables, never measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from methods.base import Levels
from search.allocation.targets import LATENCY, TargetTerm, latency_text
from search.candidate import Frozen
from search.latency.check import CheckedLatency
from search.latency.device_table import DeviceTable

FILE = "device_latency.json"  # in a run's folder: key of a candidate -> its predictions


class PredictedLatency(Frozen):
    """Of one network on one device."""

    device: str
    """The name of its table."""
    where: str
    """Processor, runtime, provider, threads, batch."""
    predicted_ms: float
    dense_ms: float
    """Predicted too."""

    @property
    def kept_fraction(self) -> float:
        """Predicted time as a share of the dense network's."""
        return self.predicted_ms / self.dense_ms

    @property
    def where_text(self) -> str:
        """`phone (ARMv8, onnxruntime 1.32.0, ...), predicted`."""
        return f"{self.device} ({self.where}), predicted"

    @property
    def figures_text(self) -> str:
        """`610 µs predicted on phone, kept 0.598; dense 1.02 ms; ARMv8, onnxruntime 1.32.0, ...`."""
        predicted, dense = (latency_text(1e6 * milliseconds) for milliseconds in (self.predicted_ms, self.dense_ms))
        return f"{predicted} predicted on {self.device}, kept {self.kept_fraction:.3f}; dense {dense}; {self.where}"


@dataclass(frozen=True)
class FinalLatency:
    """What is known of the latency of one chosen network."""

    measured: CheckedLatency | None = None
    """On the device of the run, if a target asks for it."""
    predicted: tuple[PredictedLatency, ...] = ()
    """On each device whose table a target asks for."""

    def figures_text(self, terms: Mapping[str, TargetTerm]) -> str:
        """All figures as one clause.

        Args:
            terms: measure -> the target's bound on it.
        """
        texts = [prediction.figures_text for prediction in self.predicted]
        if self.measured is not None:
            excess = self.measured.excess_text(terms[LATENCY]) if LATENCY in terms else ""
            texts.insert(0, self.measured.figures_text() + excess)
        return "; ".join(texts)


def predict_latency(table: DeviceTable, levels: Levels) -> PredictedLatency:
    """The prediction for one allocation, (n_sites,)."""
    return PredictedLatency(
        device=table.file.name,
        where=table.file.where_text,
        predicted_ms=int(table(levels[None])[0]) / 1e6,
        dense_ms=table.dense_nanoseconds / 1e6,
    )


def read_predictions(path: Path) -> dict[str, tuple[PredictedLatency, ...]]:
    """The predictions that a run left; none if it has no such file, or not one of this format."""
    try:
        return {
            key: tuple(map(PredictedLatency.model_validate, predictions))
            for key, predictions in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
