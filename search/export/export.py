"""An export: a run's candidate as files that can be deployed, each tried on real test images before it counts.

    exported = export_run(read_run("results/my-run"), pick="best", to="deploy")

Everything is written into a folder of its own first and moved to its place at the end, `config.json` last: an export
that has one is whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor, nn

from methods.base import Allocation, copy_network
from models.errors import UserError
from models.execution.inputs import Example, Inputs
from models.paths import check_utf8_names
from models.settings import setting_name
from models.tasks.given_inputs import noting_calls
from models.tasks.loaded import LoadedTask
from models.wording import plural
from search.candidate import Candidate
from search.engine.unchanged import describe_changes
from search.export.config import CARD, CONFIG, EXAMPLE, ONNX, PICTURE, PROGRAM, WEIGHTS, ExportConfig, read_config
from search.export.files import write_files
from search.export.finished_run import FinishedRun
from search.export.formats import check_onnx
from search.export.pick import Picked, pick_candidate
from search.export.settings import FORMATS
from search.export.subject import Say, Subject
from search.files.atomic import clear_leftovers, hold_lock, report_unwritable
from search.files.output_file import check_output_folder
from search.judge.checkpoint import Checkpoint
from search.judge.evaluate import Evaluator, OnStep, load_evaluator
from search.judge.faults import is_machine_fault
from search.judge.packed_weights import unpack_weights
from search.machine.last_words import last_words

TRIAL_INPUTS = 256
TRIAL_NUMBERS = 2**25  # in all trial inputs together: a batch of 64 pictures of 400 pixels
CHECKPOINTS = "checkpoints"  # folder in the run's, of fine-tunes that may go on
SAME_SCORE = 5e-3  # stored weights may be judged on another device than the one they were trained on
FILES = (WEIGHTS, EXAMPLE, PROGRAM, ONNX, PICTURE, CARD, CONFIG)


@dataclass(frozen=True)
class Exported:
    """What an export made."""

    folder: Path
    config: ExportConfig
    network: nn.Module
    """The fine-tuned network, on the CPU, in evaluation mode."""


def export_run(
    run: FinishedRun,
    *,
    pick: str = "best",
    to: str | Path | None = None,
    formats: tuple[str, ...] = FORMATS,
    finetune: float | None = None,
    force: bool = False,
    device: str | None = None,
    say: Say = lambda line: None,
    on_step: OnStep | None = None,
) -> Exported:
    """Export a candidate of a run.

    Args:
        pick: best, knee, smallest, or the beginning of a candidate's key.
        to: the folder to write; None takes `export` in the run's own.
        formats: any of config, safetensors, pt2, onnx.
        finetune: epochs of a fine-tune before; one that was interrupted goes on from its last epoch.
        force: write into a folder that is not empty; an export that is there is replaced, other files never.
        device: where to fine-tune; None takes what the run took.
        say: told what is being done.
        on_step: called with (steps done, steps in all) of a fine-tune.

    Raises:
        UserError: nothing was written into `to`.
    """
    picked = pick_candidate(run, pick, finetune)
    folder = run.folder / "export" if to is None else Path(to)
    check_utf8_names(folder)
    check_folder(folder, force=force)
    check_output_folder(folder)  # before the fine-tune, not after
    if "onnx" in formats:
        check_onnx()
    subject = prepare_subject(run, picked, pick, device=device, say=say, on_step=on_step)
    prefix = f".{folder.name}."
    with (
        report_unwritable(folder, "free space or give another folder, and export again: the fine-tune is kept"),
        _parent_of(folder),
        # Beside its place: files are moved within one file system in one step, or not at all.
        tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=folder.parent) as stage,
        hold_lock(Path(stage)),
    ):
        config = write_files(subject, Path(stage), folder, formats, say)
        check_folder(folder, force=force)  # again: the fine-tune may have taken hours
        _move_into_place(Path(stage), folder)
    return Exported(folder, config, subject.network)


@contextmanager
def _parent_of(folder: Path) -> Iterator[None]:
    """The folder above, made if it is not there, without what exports that were killed have left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    yield


def check_folder(folder: Path, *, force: bool) -> None:
    """UserError if writing there would replace anything unasked."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give {setting_name('to')} a folder")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty; give another folder, or {setting_name('force')} to replace the export in it"
        )
    taken = [name for name in FILES if os.path.lexists(folder / name)]
    if taken:
        _check_is_export(folder, taken)


def _check_is_export(folder: Path, taken: list[str]) -> None:
    """UserError if files that an export would replace were not written by one: they are somebody's own."""
    try:
        read_config(folder)
    except UserError as error:
        raise UserError(
            f"{folder} holds {', '.join(taken)}, which no whole export has written; give another folder, "
            "or move these files away"
        ) from error


def _move_into_place(stage: Path, folder: Path) -> None:
    """Move the files to their place; without `config.json` in between, so that a mixture is never taken for whole."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    for name in FILES:
        if (stage / name).is_file():
            os.replace(stage / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier export; it does not belong to this one


def prepare_subject(
    run: FinishedRun,
    picked: Picked,
    wanted: str,
    *,
    device: str | None = None,
    say: Say = lambda line: None,
    on_step: OnStep | None = None,
) -> Subject:
    """Task and network of the picked candidate; it is fine-tuned now if its weights are not in the run's folder.

    Raises:
        UserError: the task has changed since the search, or the stored weights are not what was judged.
    """
    check_utf8_names(run.folder, run.config.model_dump(mode="json"))  # of runs of earlier versions
    weights = run.folder / "weights"
    path = weights / f"{picked.key}.safetensors"
    if not path.is_file():  # it will be fine-tuned: refused now rather than after the task is loaded
        _check_can_keep(run.folder)
    say("loading the task ...")
    evaluator = load_evaluator(run.config.task, device=device or run.config.device, keep_weights=weights)
    task = evaluator.task
    if task.fingerprint != run.fingerprint:
        changes = describe_changes(task, run.fingerprint, run.task_parts)
        raise UserError(f"{changes} since the search in {run.folder}; bring back what it was made with, or search anew")
    if not path.is_file():
        path = _finetune_candidate(evaluator, picked.candidate, weights, say, on_step)
    candidate, allocation = _read_description(path)
    compressor = evaluator.compressor(candidate)
    # A method that learns its allocation may learn another one on another device or in another version of torch.
    if any(compressor.levels(allocation) != compressor.levels(picked.allocation)):
        raise UserError(
            f"{path} holds another allocation than the one that {picked.key} was judged with; remove it and export "
            "again on the device of the search, or pick another candidate"
        )
    network = unpack_weights(compressor, allocation, safetensors.torch.load_file(path))
    with noting_calls(network, _trial_count(task.example)) as calls:
        score = _check_score(network, task, picked, candidate)
    small = copy_network(network).cpu().eval()
    inputs = _trial_inputs(task, small, calls)
    return Subject(run, picked, wanted, task, compressor, candidate, allocation, small, inputs, score)


def _check_can_keep(folder: Path) -> None:
    """UserError, before the fine-tune, if the run's folder cannot take what comes of it."""
    for name in ("weights", CHECKPOINTS):
        check_output_folder(
            folder / name,
            "a fine-tune is kept in its run's folder: make it writable, or copy the run to another place and export it "
            "from there",
        )


def _read_description(path: Path) -> tuple[Candidate, Allocation]:
    """Candidate and allocation of stored weights; UserError if the file is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        candidate = Candidate.model_validate_json(metadata["candidate"])
        return candidate, Allocation.from_text(metadata["allocation"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not whole; remove it and export again: its candidate is fine-tuned anew") from error


def _finetune_candidate(
    evaluator: Evaluator, candidate: Candidate, weights: Path, say: Say, on_step: OnStep | None
) -> Path:
    """Fine-tune a candidate, from its checkpoint if there is one; the file of its weights."""
    key = candidate.key(evaluator.task.fingerprint)
    checkpoint = Checkpoint(weights.parent / CHECKPOINTS / f"{key}.safetensors")
    going_on = ", going on from the last epoch of an earlier attempt" if checkpoint.path.exists() else ""
    say(f"fine-tuning for {plural(candidate.recipe.epochs, 'epoch')}{going_on} ...")
    with last_words(f"while it fine-tuned {key[:8]}", "the same command goes on from the last whole epoch"):
        outcome = evaluator(candidate, checkpoint=checkpoint, on_step=on_step)
    if is_machine_fault(outcome):
        raise UserError(f"{outcome.reason}; the same command then goes on from the last whole epoch of its fine-tune")
    checkpoint.remove()
    if outcome.status == "failed":
        raise UserError(f"the fine-tune failed: {outcome.reason}; pick another candidate")
    return weights / f"{key}.safetensors"


def _check_score(network: nn.Module, task: LoadedTask, picked: Picked, candidate: Candidate) -> float:
    """Of the stored weights on the test set, which must be what the search found."""
    metric = task.metric
    score = task.score(network, "test").metrics[metric.name]
    searched = picked.tested.get(candidate.seed)
    # A share is off by so much itself, other figures by so much of theirs.
    allowed = SAME_SCORE * (1 if searched is None or metric.unit == "%" else abs(searched))
    if searched is not None and abs(searched - score) > allowed:
        raise UserError(
            f"the stored weights of {picked.key} reach {metric.value_text(score)} on the test set where the search "
            f"found {metric.value_text(searched)}; remove them and export again: the candidate is fine-tuned anew"
        )
    return score


def _trial_count(example: Example) -> int:
    """Inputs with which exported forms are tried: fewer where they are large."""
    inputs = Inputs.of(example)
    numbers = sum(tensor.numel() for tensor in inputs.tensors) // len(inputs)
    return max(2, min(TRIAL_INPUTS, TRIAL_NUMBERS // max(numbers, 1)))


def _trial_inputs(task: LoadedTask, network: nn.Module, calls: Sequence[Inputs]) -> Inputs:
    """The first test inputs, as the network was called with them, on the CPU; the example if it was not called."""
    example = Inputs.of(task.example)
    batches = [replace(call.like(example, network), listed=example.listed) for call in calls] or [example]
    inputs = Inputs.join(batches)
    return inputs.first(_trial_count(example)).to("cpu").map(Tensor.contiguous)


def as_json(exported: Exported) -> dict[str, object]:
    """What an export made, as plain values."""
    return {"to": str(exported.folder), **exported.config.model_dump(mode="json")}
