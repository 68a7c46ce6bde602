"""`Evaluator`: a candidate's outcome. Compress, measure batch norm anew, fine-tune, judge on held-out images.

A pure function of task and candidate: the task stays untouched, and the same seed on the same device gives the same
outcome. A candidate for the search split is fine-tuned on the rest of the training set; a finalist, chosen
already, on all of it before it meets the test set.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.base import Compressor, Tuning, copy_network
from methods.registry import locate_methods, method_info
from models.data.picture_folders import FolderFindings, adopt_findings
from models.devices import pick_device
from models.errors import UserError
from models.task import Task
from models.task_config import TaskConfig
from models.tasks.build import receive_tasks
from models.tasks.load import load_task
from models.tasks.loaded import LoadedTask, Score, Split, TrainingPart
from models.user.given_networks import receive_networks
from search.candidate import Candidate, Outcome, failed_outcome
from search.judge.bind import bind_method
from search.judge.checkpoint import Checkpoint, RungWeights
from search.judge.drift import Drift
from search.judge.faults import fault_outcome, machine_fault
from search.judge.finetune import DivergedError, TimeLimitError, count_steps, finetune, recalibrate
from search.judge.packed_weights import save_compressed
from search.judge.prefix import Prefix, ScanPrefixes, measure_sharing

OnStep = Callable[[int, int], None]
SPARED = "steps_spared"  # the note of a fine-tune that went on from where a rung had left it
PLAIN = "plain_steps"  # the note of why a GPU did not record its steps


class Evaluator:
    """Holds a task's data and dense network on one device and judges candidate after candidate."""

    def __init__(
        self,
        config: TaskConfig,
        *,
        device: str | None = None,
        keep_weights: Path | None = None,
        keep_rungs: Path | None = None,
        time_limit: float | None = None,
    ) -> None:
        """
        Args:
            device: `cpu`, `cuda`, ...; None takes a GPU if there is one.
            keep_weights: folder for the weights of candidates that are judged on the test set.
            keep_rungs: folder for fine-tunes that were broken off at a rung and may go on.
            time_limit: seconds for one candidate's fine-tune.
        """
        self.task: LoadedTask = load_task(config, pick_device(device))
        self._keep, self._rungs, self._limit = keep_weights, keep_rungs, time_limit
        self._compressors: dict[str, Compressor] = {}
        self._drifts: dict[tuple[int, int] | None, Drift] = {None: self._drift_of(self.task.network)}
        self._prefixes = ScanPrefixes(self.task.network, self.task.example)

    def __call__(
        self, candidate: Candidate, *, checkpoint: Checkpoint | None = None, on_step: OnStep | None = None
    ) -> Outcome:
        """The candidate's outcome; divergence and an exceeded limit are failed outcomes with a reason.

        A fault of the machine is told by `faults.fault_outcome`.

        Args:
            checkpoint: where a long fine-tune is kept from epoch to epoch, and goes on from.
            on_step: called with (steps done, steps in all).
        """
        start, device = time.monotonic(), str(self.task.device)
        checkpoint = checkpoint or self._rung_weights(candidate)
        try:
            outcome = self._judge_candidate(candidate, checkpoint, on_step)
        except (DivergedError, TimeLimitError) as error:
            return failed_outcome(str(error), time.monotonic() - start, device)
        except Exception as error:
            if (fault := machine_fault(error)) is None:
                raise
            return fault_outcome(fault, time.monotonic() - start, device)
        return outcome.model_copy(update={"seconds": time.monotonic() - start, "device": device})

    def _rung_weights(self, candidate: Candidate) -> Checkpoint | None:
        """The file in which a rung leaves its fine-tune to the next one; None where no rungs are kept."""
        if self._rungs is None or candidate.judge == "test" or candidate.images is not None:
            return None
        return RungWeights(rung_file(self._rungs, candidate, self.task.fingerprint), frozen=candidate.until is None)

    def _judge_candidate(self, candidate: Candidate, checkpoint: Checkpoint | None, on_step: OnStep | None) -> Outcome:
        if candidate.images is None:
            self._prefixes.free_memory()  # the scan is over: fine-tuning needs the memory
            return self.measure_outcome(candidate, checkpoint, on_step)
        prefix = self.prefix_of(candidate)
        if prefix is None:
            return self.measure_outcome(candidate)
        return measure_sharing(prefix, lambda shared: self.measure_outcome(candidate, prefix=shared))

    def prefix_of(self, candidate: Candidate) -> Prefix | None:
        """Outputs of earlier networks of the candidate's method; other methods' are dropped."""
        return self._prefixes.of_method(_method_key(candidate))

    def measure_outcome(
        self,
        candidate: Candidate,
        checkpoint: Checkpoint | None = None,
        on_step: OnStep | None = None,
        prefix: Prefix | None = None,
    ) -> Outcome:
        """Compress, measure batch norm anew, fine-tune, look at images: the outcome, seconds and device left out.

        Args:
            prefix: of earlier networks that were not trained; for one that is not trained either.
        """
        compressor, recipe = self.compressor(candidate), candidate.recipe
        allocation = candidate.allocation
        network = compressor.compress(allocation)
        tune = self.task.train if candidate.judge == "test" else self.task.tune
        steps = count_steps(recipe, tune)
        tuning = self._make_tuning(candidate, network, steps)
        shared = nullcontext() if prefix is None else prefix.sharing(network, _call_signature(candidate))
        with shared:
            self._recalibrate(network, tune, candidate)
            training, notes = bool(steps) and candidate.until != 0, dict[str, Any]()
            if training:
                notes = self._run_finetune(network, tune, candidate, tuning, checkpoint, on_step)
                # Running averages lag behind weights that have just moved, after a short fine-tune by far.
                self._recalibrate(network, tune, candidate)
            network = tuning.finish(network).eval()
            score = self.task.score(network, candidate.judge, candidate.images)
            drift = None
            if candidate.judge == "search" and self.task.objective.has_outputs:
                drift = self._drift_from(candidate, trained=training)(network, candidate.images)
        if not all(map(math.isfinite, (*score.metrics.values(), score.loss or 0, drift or 0))):
            loss = "" if score.loss is None else f" (loss {score.loss})"
            return failed_outcome(f"its outputs are not finite{loss}")
        if candidate.learned_target is not None:
            learned = tuning.learned_allocation()
            assert learned is not None, f"{candidate.method} learns its allocation and does not say which"
            allocation = learned
        if self._keep is not None and candidate.judge == "test":
            save_compressed(self._keep, candidate, allocation, network, compressor, self.task.fingerprint)
        return Outcome(
            status="ok",
            metric=self.task.metric,
            metrics=dict(score.metrics),
            loss=score.loss,
            drift=drift,
            merit=-drift if self.task.seen and drift is not None else None,
            images=score.inputs,
            **compressor.cost_of(allocation)._asdict(),
            epochs=recipe.epochs if candidate.until is None else candidate.until,
            allocation=None if candidate.learned_target is None else allocation,
            notes=tuning.report() | notes,
        )

    def _drift_from(self, candidate: Candidate, *, trained: bool) -> Drift:
        """Drift from the dense network; for a network that was not trained, from one that was treated as it was.

        New batch-norm statistics alone move the outputs, by more than a mild compression does.
        """
        how = None if trained else (candidate.recipe.recalibration_images, candidate.seed)
        if how not in self._drifts:
            dense = copy_network(self.task.network)
            self._recalibrate(dense, self.task.tune, candidate)
            self._drifts = {None: self._drifts[None], how: self._drift_of(dense)}
        return self._drifts[how]

    def _drift_of(self, dense: nn.Module) -> Drift:
        return Drift(dense, self.task.objective, self.task.probes)

    def _recalibrate(self, network: nn.Module, part: TrainingPart, candidate: Candidate) -> None:
        count, device = candidate.recipe.recalibration_images, self.task.device
        recalibrate(network, self.task.objective, part, count, seed=candidate.seed, device=device)

    def _make_tuning(self, candidate: Candidate, network: nn.Module, steps: int) -> Tuning:
        compressor, lr = self.compressor(candidate), candidate.recipe.lr
        if candidate.learned_target is None:
            return compressor.tuning(candidate.allocation, network, steps=steps, lr=lr)
        return compressor.learned(candidate.learned_target, network, steps=steps, lr=lr)

    def _run_finetune(
        self,
        network: nn.Module,
        part: TrainingPart,
        candidate: Candidate,
        tuning: Tuning,
        checkpoint: Checkpoint | None,
        on_step: OnStep | None,
    ) -> dict[str, Any]:
        """Fine-tune the network; returns what is to be noted of it."""
        deadline = None if self._limit is None else time.monotonic() + self._limit
        done = finetune(
            network,
            self.task.objective,
            part,
            candidate.recipe,
            seed=candidate.seed,
            device=self.task.device,
            tuning=tuning,
            teacher=self.task.network,
            deadline=deadline,
            on_step=on_step,
            checkpoint=checkpoint,
            until=candidate.until,
        )
        notes = {SPARED: done.spared, PLAIN: done.plain_because}
        return {name: value for name, value in notes.items() if value}

    def compressor(self, candidate: Candidate) -> Compressor:
        """The candidate's method bound to the dense network; bound once per worker."""
        key = _method_key(candidate)
        if key not in self._compressors:
            self._compressors[key] = bind_method(self.task, candidate.method, candidate.options)
        return self._compressors[key]

    def dense(self, split: Split = "search") -> Score:
        """Of the dense network on the `search` split or the `test` set."""
        return self.task.score(self.task.network, split)


def _method_key(candidate: Candidate) -> str:
    return json.dumps([candidate.method, candidate.options], sort_keys=True)


def _call_signature(candidate: Candidate) -> tuple[int | None, ...]:
    """On which images, in which batches, the network of a scan is called."""
    return candidate.seed, candidate.recipe.recalibration_images, candidate.images


def rung_file(folder: Path, candidate: Candidate, task: str) -> Path:
    """Where the last rung of a candidate is kept."""
    return folder / f"{candidate.without_rung.key(task)}.safetensors"


def load_evaluator(
    config: TaskConfig,
    *,
    networks: Mapping[str, nn.Module] | None = None,
    tasks: Mapping[str, Task] | None = None,
    folders: Mapping[str, FolderFindings] | None = None,
    fingerprint: str | None = None,
    methods: Iterable[str] = (),
    code: Mapping[str, str] | None = None,
    **options: Any,
) -> Evaluator:
    """What a dispatcher calls once per worker.

    Args:
        networks: the task's network, if it was given as an object.
        tasks: the task, if it was given as an object.
        folders: what the search found when it checked the task's pictures, if its data are pictures.
        fingerprint: what the task must be; None takes it as it is here.
        methods: of the candidates to come; all must be known here.
        code: where those are that lie in a user's files (`methods.registry.identify_method`).

    Raises:
        UserError: the files here are not those of the search: changed since it began, or others on this machine.
    """
    receive_networks(networks or {})
    receive_tasks(tasks or {})
    adopt_findings(folders or {})
    locate_methods(code or {})
    for name in methods:
        method_info(name)  # refused here, it fails once and not with every candidate
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    evaluator = Evaluator(config, **options)
    if fingerprint not in (None, evaluator.task.fingerprint):
        remedy = "let every machine see the same files, unchanged"
        if config.task is not None:
            remedy += (
                ", and the task's function build the same network each time: load its weights, or seed its training"
            )
        raise UserError(
            f"network, weights or data on {socket.gethostname()} are not those that the search began with (task "
            f"{evaluator.task.fingerprint}, not {fingerprint}); {remedy}"
        )
    return evaluator
