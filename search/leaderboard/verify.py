"""Whether a row of a leaderboard holds: its finalists' stored weights, judged on the test set once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from models.errors import UserError, first_line, unknown_name
from models.task_config import TaskConfig
from search.engine.run_record import PARTS, read_config, recorded
from search.engine.unchanged import describe_changes
from search.judge.evaluate import Evaluator
from search.judge.finetune import measure_accuracy
from search.judge.packed_weights import unpack_weights
from search.leaderboard.board import Answer, answers_of
from search.ledger.ledger import Ledger
from search.ledger.record import Record


@dataclass(frozen=True)
class Check:
    """One seed's figure, and what its weights give now."""

    seed: int
    recorded: int
    """Test images that were right."""
    found: int
    images: int
    recorded_on: str
    found_on: str

    @property
    def holds(self) -> bool:
        """To the last image."""
        return self.recorded == self.found

    def __str__(self) -> str:
        was = f"seed {self.seed}: {self.found} of {self.images} test images right"
        if self.holds:
            return f"{was}, as recorded"
        where = "" if self.recorded_on == self.found_on else f" (recorded on {self.recorded_on}, now {self.found_on})"
        return f"{was}, recorded {self.recorded}: a difference of {self.found - self.recorded:+d}{where}"


def find_row(ledgers: Sequence[Ledger], row: str) -> tuple[Ledger, Answer]:
    """The row whose name begins so; UserError for an unknown or ambiguous one, or one without test results."""
    every = [(ledger, answer) for ledger in ledgers for answer in answers_of(ledger)]
    found = [pair for pair in every if row and pair[1].standing.row.startswith(row)]
    if not found:
        raise unknown_name("row", row, [answer.standing.row for _, answer in every])
    if len(found) > 1:
        raise UserError(f"{len(found)} rows begin with {row!r}; write more of it, or name the task")
    if not found[0][1].good:
        reason = (
            found[0][1].standing.reason or "its finalist has not met the test set, or did so under an earlier version"
        )
        raise UserError(f"row {row!r} has no figure to verify: {reason}")
    return found[0]


def verify(ledger: Ledger, answer: Answer, results: Path, device: str | None = None) -> list[Check]:
    """Judge every seed's stored weights anew; UserError if weights or task are not there any more."""
    stored = [(record, find_weights(results, record.key)) for record in answer.good]
    folder = stored[0][1].parent.parent
    evaluator = Evaluator(_task(folder, ledger), device=device)
    if evaluator.task.fingerprint != ledger.task:
        record = recorded(folder)
        parts = record.get(PARTS) if record.get("fingerprint") == ledger.task else None
        changes = describe_changes(evaluator.task, ledger.task, parts)
        raise UserError(f"{changes} since {ledger.title} was searched; bring back what it was searched with")
    return [_check(record, path, evaluator) for record, path in stored]


def find_weights(results: Path, key: str) -> Path:
    """The packed weights of a finalist, in whichever run they lie."""
    found = sorted(results.glob(f"*/weights/{key}.safetensors"))
    if not found:
        raise UserError(
            f"the weights of finalist {key} are in no run below {results}; run its command with a new ledger"
        )
    return found[0]


def _task(folder: Path, ledger: Ledger) -> TaskConfig:
    """The run's task as `run.json` describes it; UserError if that is gone or damaged."""
    try:
        return read_config(folder).task
    except UserError as error:
        raise UserError(f"what {ledger.title} is cannot be told: {error}") from error


def _check(record: Record, path: Path, evaluator: Evaluator) -> Check:
    outcome = record.outcome
    compressor = evaluator.compressor(record.candidate)
    allocation = outcome.allocation or record.candidate.allocation
    try:
        network = unpack_weights(compressor, allocation, safetensors.torch.load_file(path, str(evaluator.task.device)))
    except (SafetensorError, RuntimeError, LookupError, ValueError, AssertionError, AttributeError) as error:
        raise UserError(f"{path} does not hold the finalist's weights: {first_line(error)}") from error
    accuracy, _ = measure_accuracy(network, evaluator.task.test)
    assert outcome.accuracy is not None
    images = len(evaluator.task.test)
    return Check(
        seed=record.candidate.seed,
        recorded=round(outcome.accuracy * outcome.images),
        found=round(accuracy * images),
        images=images,
        recorded_on=outcome.device,
        found_on=str(evaluator.task.device),
    )
