"""A candidate is everything that decides an outcome; an outcome is everything that was measured of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from methods.base import Allocation
from models.tasks.metric import ACCURACY, Metric
from search.recipe import Recipe, StoredRecipe


class Frozen(BaseModel):
    """Immutable, closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


KEY_LENGTH = 20  # hexadecimal digits: 80 bits, so that no two candidates of a ledger share a key
# Raised when outcomes of that split gain a field or change, so that outcomes of earlier versions are judged anew.
_VERSIONS = {"search": 5, "test": 4}


class Candidate(Frozen):
    """Method + allocation + recipe + seed, and which images judge it.

    Equality, hash and key all come from `identity`, so a set of candidates, a ledger and a folder of weights agree on
    which candidates are the same.
    """

    method: str
    options: dict[str, Any] = {}
    allocation: Allocation
    """Site -> setting; sites that it leaves out stay dense."""
    recipe: StoredRecipe = Recipe()
    seed: int = 0
    judge: Literal["search", "test"] = "search"
    """`search`: the held-out part of the training set. `test`: the test set, for finalists alone."""
    images: int | None = None
    """Judge on the first so many images only (sensitivity scans)."""
    learned_target: float | None = None
    """Kept FLOPs to reach, for a method that learns its allocation; `allocation` is then empty."""
    until: float | None = Field(None, ge=0)
    """A rung: judge after so many epochs of the recipe's fine-tune; None judges at its end."""

    @property
    def identity(self) -> str:
        """Every field that decides, as JSON with sorted keys: candidates are the same if their texts are equal."""
        fields = self.model_dump(mode="json")
        if not self.recipe.follows_features:  # as in earlier versions, whose outcomes still hold
            del fields["recipe"]["distill_features"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def key(self, task: str) -> str:
        """A stable hash of the candidate and of the task's fingerprint; the same on every machine."""
        payload = f"[{json.dumps(task)},{self.identity},{_VERSIONS[self.judge]}]"
        return hashlib.sha256(payload.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def without_rung(self) -> Candidate:
        """The candidate that this one is a rung of; itself if it is none."""
        return self if self.until is None else self.model_copy(update={"until": None})

    @property
    def without_seed(self) -> Candidate:
        """The candidate with seed 0: equal for all seeds of one finalist."""
        return self.model_copy(update={"seed": 0})


class Outcome(Frozen):
    """What was measured of one candidate. A failed one has a reason and no metrics."""

    status: Literal["ok", "failed"]
    reason: str | None = None
    metric: Metric = ACCURACY
    """Of the task's metrics the one that ranks."""
    metrics: dict[str, float] = {}
    """Name -> value on the judging inputs, of all metrics of the task."""
    loss: float | None = None
    """Mean over the same inputs, where the task measures it; of classes the cross-entropy, nats."""
    drift: float | None = None
    """Mean divergence from the dense outputs on the task's probes, where outputs are compared; not on the test set.

    For a network that was not trained, the dense one has its batch norm measured anew too."""
    merit: float | None = None
    """The value that ranks it in place of the metric; larger is better."""
    images: int = 0
    flops: int | None = None
    params: int | None = None
    bytes: int | None = None
    epochs: float = 0.0
    seconds: float = 0.0
    """Of the worker's time, from compression to the figures."""
    device: str = ""
    allocation: Allocation | None = None
    """The allocation that a method found which learns its own."""
    notes: dict[str, Any] = {}
    """What the method reports about the fine-tune (`Tuning.report`)."""

    @model_validator(mode="before")
    @classmethod
    def _read_accuracy(cls, fields: Any) -> Any:
        """Outcomes of earlier versions have an `accuracy` alone."""
        if not isinstance(fields, dict) or "accuracy" not in fields:
            return fields
        accuracy = fields["accuracy"]
        others = {name: value for name, value in fields.items() if name != "accuracy"}
        return others if accuracy is None else {"metrics": {ACCURACY.name: accuracy}, **others}

    @property
    def score(self) -> float | None:
        """The value of the ranking metric; None of a failed candidate."""
        return self.metrics.get(self.metric.name)

    @property
    def worth(self) -> float | None:
        """The value that candidates are ranked by, larger is better; None of a failed one."""
        if self.merit is not None or self.score is None:
            return self.merit
        return self.metric.worth(self.score)


def failed_outcome(reason: str, seconds: float = 0.0, device: str = "") -> Outcome:
    """An outcome without figures, of a candidate that could not be judged."""
    return Outcome(status="failed", reason=reason, seconds=seconds, device=device)
