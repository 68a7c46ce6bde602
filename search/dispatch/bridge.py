"""A search's source as Ray Tune's search algorithm, by Tune's public interfaces: `Searcher` and `Callback`.

A candidate is a trial of one step. Its JSON goes to the worker in the trial's config, and its outcome's JSON comes back
in the result. Tune keeps and places the workers and notices when one dies; what a death means is decided here.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import UserError
from search.candidate import Candidate, Outcome, failed
from search.dispatch.attempts import ATTEMPTS, NO_MEMORY, AttemptLog, death_reason
from search.dispatch.crash_log import NO_TRACE, describe_crash
from search.dispatch.loop import Resources, Source
from search.dispatch.worker import ATTEMPT_FILE, CANDIDATE  # sets what Ray reads when it is imported
from search.judge.faults import MachineFaultError

# isort: split
import ray
from ray import tune
from ray.tune.search import Searcher

MACHINES = 3  # that may go while they judge one candidate
# What Ray says where the raylet, its process for a machine, is gone: that of the worker, and that of this driver, for
# which Ray then starts no worker any more (the owner of an actor is who asked for it).
_WORKER_MACHINE, _OWN_MACHINE = "node has died", "owner has died"


@dataclass
class Attempt:
    """A candidate on its way."""

    candidate: Candidate
    causes: list[str] = field(default_factory=list)
    """What the workers of earlier attempts died of."""
    machines: int = 0
    """How many machines went while they judged it, which is not its fault."""
    alone: bool = False
    """Nothing else may run beside it: the memory was full, and Ray ends whoever it chooses."""
    file: Path | None = None
    """Where its worker writes what it dies of."""
    started: float = math.inf  # time.monotonic() when its worker got it
    actor: Any = None


class Bridge(Searcher):
    """What Tune asks and tells, passed on to the source; errors of the source end the run and are kept for the caller.

    Never hands out more than `workers` candidates at a time: one asked ahead would be chosen knowing less.
    """

    def __init__(
        self,
        source: Source,
        resources: Resources,
        on_start: Callable[[Candidate], None] | None,
        attempts: AttemptLog,
    ) -> None:
        super().__init__()
        self._source, self._time_limit, self._on_start = source, resources.time_limit, on_start
        self._attempts = attempts
        self.workers = resources.workers
        self._again: list[Attempt] = []
        self.running: dict[str, Attempt] = {}
        self.told = 0
        """Outcomes so far."""
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or self._source.done

    def suggest(self, trial_id: str) -> Any:
        with self._keeping_errors():
            if not self.done and self._has_room():
                attempt = self._next_attempt()
                if attempt is not None:
                    attempt.file = self._attempts.next_file(attempt.candidate)
                    self.running[trial_id] = attempt
                    return {CANDIDATE: attempt.candidate.model_dump_json(), ATTEMPT_FILE: str(attempt.file)}
                if not (self.running or self.done):
                    raise RuntimeError("the source waits for an outcome, but no candidate is running")
        return str(Searcher.FINISHED) if self.done else None

    def _has_room(self) -> bool:
        if any(attempt.alone for attempt in self.running.values()):
            return False
        if self._again and self._again[0].alone:
            return not self.running
        return len(self.running) < self.workers

    def _next_attempt(self) -> Attempt | None:
        if self._again:
            return self._again.pop(0)
        while (candidate := self._source.ask()) is not None:
            causes = self._attempts.deaths(candidate)  # in earlier processes
            if len(causes) < ATTEMPTS:
                return Attempt(candidate, causes, alone=causes[-1:] == [NO_MEMORY])
            self._tell(candidate, failed(death_reason("worker", causes)))
        return None

    def start(self, trial_id: str, actor: Any) -> None:
        """A worker has been given the candidate."""
        attempt = self.running[trial_id]
        attempt.started, attempt.actor = time.monotonic(), actor
        if self._on_start:
            with self._keeping_errors():
                self._on_start(attempt.candidate)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """An outcome; that a worker died is told by `lose`, which follows and knows of what."""
        if error or trial_id not in self.running:
            return
        if not result or not {"broken", "outcome"} & set(result):
            self.lose(trial_id, "")
            return
        attempt = self.running.pop(trial_id)
        with self._keeping_errors():
            if "broken" in result:
                raise UserError(result["broken"])
            self._tell(attempt.candidate, Outcome.model_validate_json(result["outcome"]))

    def lose(self, trial_id: str, error: str) -> None:
        """The worker of a candidate died: of the time limit, or of something that may not happen again.

        Args:
            error: Ray's words for it.
        """
        attempt = self.running.pop(trial_id, None)
        if attempt is None:
            return
        with self._keeping_errors():
            if machine_died(attempt.file, error):
                self._judge_elsewhere(attempt, error)
            else:
                self._decide(attempt, death_cause(attempt.file, error))

    def _judge_elsewhere(self, attempt: Attempt, error: str) -> None:
        """A candidate whose machine went is judged again, while there are machines.

        Raises:
            MachineFaultError: this machine's Ray is gone, or one machine after the other.
        """
        if _OWN_MACHINE in error:
            raise MachineFaultError(
                "Ray's raylet, the process that starts the workers, died; see whether the memory is full"
            )
        machines = attempt.machines + 1
        if machines >= MACHINES:
            raise MachineFaultError(f"{machines} machines went while they judged one candidate; see to the cluster")
        self._again.append(Attempt(attempt.candidate, attempt.causes, machines, alone=attempt.alone))

    def _decide(self, attempt: Attempt, cause: str) -> None:
        """Whether a candidate whose worker died is judged once more."""
        seconds = max(0.0, time.monotonic() - attempt.started)
        limit = self._time_limit
        if limit is not None and seconds >= limit:
            self._tell(attempt.candidate, failed(f"took longer than the time limit of {limit:g} s", seconds))
            return
        if attempt.file is not None:
            self._attempts.note_death(attempt.file, attempt.candidate, cause)
        causes, memory = [*attempt.causes, cause], cause == NO_MEMORY
        if memory and not attempt.alone:
            self._again.append(Attempt(attempt.candidate, causes, attempt.machines, alone=True))
        elif len(causes) < ATTEMPTS and not memory:
            self._again.append(Attempt(attempt.candidate, causes, attempt.machines))
        else:
            self._tell(attempt.candidate, failed(death_reason("worker", causes), seconds))

    def _tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._source.tell(candidate, outcome)
        self._attempts.settle(candidate)
        self.told += 1

    def interrupt(self, error: str, *, at_fault: bool) -> None:
        """Tune's loop ended by an error of its own: whatever was running is judged again by the next loop.

        Args:
            error: its words.
            at_fault: one of the candidates may have brought it about, so this was an attempt of each.
        """
        self.kill_running()
        for trial_id, attempt in list(self.running.items()):
            if at_fault:
                self.lose(trial_id, error)
            else:
                self.running.pop(trial_id)
                self._again.append(Attempt(attempt.candidate, attempt.causes, attempt.machines, alone=attempt.alone))

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        """Tune would log an exception of ours and go on, or take it for the trial's."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A candidate has one result, and it comes with its completion."""

    def kill_running(self) -> None:
        """End the workers of candidates that nobody waits for any more; the orderly way waits for the candidates."""
        for attempt in self.running.values():
            if attempt.actor is not None:
                with contextlib.suppress(Exception):  # it may be dead already
                    ray.kill(attempt.actor)

    def save(self, checkpoint_path: str) -> None:
        """Searches are resumed from the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Searches are resumed from the ledger."""


class Watch(tune.Callback):
    """Passes starts and deaths on, and ends the run between two of Tune's steps."""

    def __init__(self, bridge: Bridge, stop: threading.Event, leave: type[BaseException]) -> None:
        self._bridge, self._stop, self._leave = bridge, stop, leave

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Without the handle, which is not documented, a stop waits for the candidate.
        actor = getattr(getattr(trial, "temporary_state", None), "ray_actor", None)
        self._bridge.start(trial.trial_id, actor)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._stop.is_set():  # what asked for the stop may have ended workers and raylet too
            self._bridge.lose(trial.trial_id, error_text(trial))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._stop.is_set() or self._bridge.done:
            self._bridge.kill_running()
            raise self._leave


def error_text(trial: Any) -> str:
    """What a trial ended by, in Ray's words.

    From the file, not by `trial.get_error()`: that looks where the file will be copied to later.
    """
    try:
        return Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError, AttributeError):
        return ""


def death_cause(file: Path | None, error: str) -> str:
    """What a worker died of, as far as it is known: faulthandler saw a signal, or Ray says more than that it died.

    Args:
        file: what the worker wrote, if it lies on this machine or in a shared folder.
        error: Ray's words.
    """
    if is_out_of_memory(error):
        return NO_MEMORY
    return crash_in(file) or NO_TRACE


def machine_died(file: Path | None, error: str) -> bool:
    """Whether a worker went with its machine, rather than of what it did there."""
    return (_WORKER_MACHINE in error or _OWN_MACHINE in error) and crash_in(file) is None


def crash_in(file: Path | None) -> str | None:
    """The fatal signal that a worker's file tells of, if the file lies on this machine or in a shared folder."""
    if file is None:
        return None
    with contextlib.suppress(OSError):
        return describe_crash(file.read_text(errors="replace"))
    return None


def is_out_of_memory(error: str) -> bool:
    """Whether Ray ended a worker because the machine's memory was full."""
    return "OutOfMemoryError" in error or "running low on memory" in error
