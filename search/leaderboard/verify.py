"""Whether a row of a leaderboard holds: its finalist's stored weights, judged on the test set once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from models.errors import UserError, first_line, unknown_name
from models.task_config import TaskConfig
from models.tasks.metric import Metric
from search.engine.run_record import PARTS, read_config, recorded_fields
from search.engine.unchanged import describe_changes
from search.judge.evaluate import Evaluator
from search.judge.packed_weights import unpack_weights
from search.leaderboard.answers import Answer, answers_of
from search.ledger.ledger import Ledger
from search.ledger.record import Record


@dataclass(frozen=True)
class Check:
    """What one seed's network scores on the test set: as the ledger has it, and as its weights do now."""

    seed: int
    recorded: float
    """Test images that were classified rightly; of other metrics than accuracy, the score."""
    found: float
    images: int
    metric: Metric
    recorded_on: str
    found_on: str

    @property
    def holds(self) -> bool:
        """To the last image, or of other metrics than accuracy, to rounding."""
        return self._text(self.recorded) == self._text(self.found)

    def __str__(self) -> str:
        of_all = f" of {self.images} test images right" if self._counts_images else " on the test set"
        result = f"seed {self.seed}: {self._text(self.found)}{of_all}"
        if self.holds:
            return f"{result}, as recorded"
        # Another device adds up in another order, which can turn a close decision.
        devices = "" if self.recorded_on == self.found_on else f" (recorded on {self.recorded_on}, now {self.found_on})"
        change = f"{self.found - self.recorded:+.6g}"
        return f"{result}, recorded {self._text(self.recorded)}: a difference of {change}{devices}"

    def record(self) -> dict[str, Any]:
        """As plain JSON; the metric is named if it is no accuracy."""
        fields = {**vars(self), "metric": str(self.metric), "holds": self.holds}
        unused = "metric" if self._counts_images else "images"
        return {name: value for name, value in fields.items() if name != unused}

    @property
    def _counts_images(self) -> bool:
        return self.metric.counted and self.images > 0

    def _text(self, score: float) -> str:
        return str(score) if self._counts_images else f"{self.metric.name} {score:.6g}"


def find_row(ledgers: Sequence[Ledger], row: str) -> tuple[Ledger, Answer]:
    """The row whose name begins so; UserError for an unknown or ambiguous one, or one without test results."""
    answers = [(ledger, answer) for ledger in ledgers for answer in answers_of(ledger)]
    matches = [(ledger, answer) for ledger, answer in answers if row and answer.standing.row.startswith(row)]
    if not matches:
        raise unknown_name("row", row, [answer.standing.row for _, answer in answers])
    if len(matches) > 1:
        raise UserError(f"{len(matches)} rows begin with {row!r}; write more of it, or name the task")
    ledger, answer = matches[0]
    if not answer.scored_records:
        untested = "its finalist has not met the test set, or did so under an earlier version"
        raise UserError(f"row {row!r} has no figure to verify: {answer.standing.reason or untested}")
    return ledger, answer


def verify_answer(ledger: Ledger, answer: Answer, results: Path, device: str | None = None) -> list[Check]:
    """Judge every seed's stored weights anew; UserError if weights or task are not there any more."""
    stored = [(record, find_weights(results, record.key)) for record in answer.scored_records]
    # Any run that holds weights of the finalist describes the task: DIR/weights/KEY.safetensors.
    folder = stored[0][1].parent.parent
    evaluator = Evaluator(_read_task(folder, ledger), device=device)
    if evaluator.task.fingerprint != ledger.task:
        fields = recorded_fields(folder)
        # The fingerprints of network, data and splits tell which of them changed, if the run is of the ledger's task.
        recorded_parts = fields.get(PARTS) if fields.get("fingerprint") == ledger.task else None
        changes = describe_changes(evaluator.task, ledger.task, recorded_parts)
        raise UserError(f"{changes} since {ledger.title} was searched; bring back what it was searched with")
    return [_check_weights(record, path, evaluator) for record, path in stored]


def find_weights(results: Path, key: str) -> Path:
    """The packed weights of a finalist, in whichever run they lie."""
    paths = sorted(results.glob(f"*/weights/{key}.safetensors"))
    if not paths:
        raise UserError(
            f"the weights of finalist {key} are in no run below {results}; run its command with a new ledger"
        )
    return paths[0]


def _read_task(folder: Path, ledger: Ledger) -> TaskConfig:
    """The run's task as `run.json` describes it; UserError if that is gone or damaged."""
    try:
        return read_config(folder).task
    except UserError as error:
        raise UserError(f"what {ledger.title} is cannot be told: {error}") from error


def _check_weights(record: Record, path: Path, evaluator: Evaluator) -> Check:
    outcome = record.outcome
    compressor = evaluator.compressor(record.candidate)
    allocation = outcome.allocation or record.candidate.allocation
    try:
        network = unpack_weights(compressor, allocation, safetensors.torch.load_file(path, str(evaluator.task.device)))
    except (SafetensorError, RuntimeError, LookupError, ValueError, AssertionError, AttributeError) as error:
        raise UserError(f"{path} does not hold the finalist's weights: {first_line(error)}") from error
    metric, score = evaluator.task.metric, evaluator.task.score(network, "test")
    scores = (outcome.score or 0.0, score.metrics[metric.name])
    if metric.counted and score.inputs:
        scores = (round(scores[0] * outcome.images), round(scores[1] * score.inputs))
    return Check(
        seed=record.candidate.seed,
        recorded=scores[0],
        found=scores[1],
        images=score.inputs,
        metric=metric,
        recorded_on=outcome.device,
        found_on=str(evaluator.task.device),
    )
