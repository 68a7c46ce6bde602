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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.errors import UserError
from search.candidate import Candidate, Outcome, failed_outcome
from search.dispatch.attempts import ATTEMPTS, NO_MEMORY, AttemptLog, death_reason
from search.dispatch.contract import Resources, Source
from search.dispatch.ray_environment import ray, tune
from search.dispatch.ray_internals import actor_of_trial
from search.dispatch.worker import ATTEMPT_FILE, BROKEN, CANDIDATE, OUTCOME
from search.dispatch.worker_deaths import death_cause, error_text, is_machine_death, is_own_machine_death
from search.judge.faults import MachineFaultError

MACHINES = 3  # that may go while they judge one candidate


@dataclass
class Attempt:
    """A candidate on its way."""

    candidate: Candidate
    causes: list[str] = field(default_factory=list)
    """What the workers of earlier attempts died of."""
    machines: int = 0
    """How many machines went while they judged it, which is not its fault."""
    alone: bool = False
    """Nothing else may run beside it: the memory was full, and Ray ends whichever worker it chooses."""
    file: Path | None = None
    """Where its worker writes what it dies of."""
    started: float = math.inf  # time.monotonic() when its worker got it
    actor: Any = None

    def again(self, **changes: Any) -> Attempt:
        """The next attempt at the same candidate."""
        return replace(self, file=None, started=math.inf, actor=None, **changes)


class Bridge(tune.search.Searcher):
    """Suggests a source's candidates to Tune as trials, and tells the source their outcomes.

    Never hands out more than `workers` candidates at a time: one asked for ahead would be chosen knowing less. An error
    that the source raises ends the run; it is kept in `error` for the caller, as Tune would log it and go on.
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
        self._running: dict[str, Attempt] = {}
        self.outcomes_told = 0
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
                    self._running[trial_id] = attempt
                    return {CANDIDATE: attempt.candidate.model_dump_json(), ATTEMPT_FILE: str(attempt.file)}
                if not (self._running or self.done):
                    raise RuntimeError("the source waits for an outcome, but no candidate is running")
        return str(tune.search.Searcher.FINISHED) if self.done else None

    def _has_room(self) -> bool:
        if any(attempt.alone for attempt in self._running.values()):
            return False
        if self._again and self._again[0].alone:
            return not self._running
        return len(self._running) < self.workers

    def _next_attempt(self) -> Attempt | None:
        if self._again:
            return self._again.pop(0)
        while (candidate := self._source.ask()) is not None:
            causes = self._attempts.past_deaths(candidate)  # in earlier processes
            if len(causes) < ATTEMPTS:
                return Attempt(candidate, causes, alone=causes[-1:] == [NO_MEMORY])
            self._tell(candidate, failed_outcome(death_reason("worker", causes)))
        return None

    def note_start(self, trial_id: str, actor: Any) -> None:
        """A worker has been given the candidate."""
        attempt = self._running[trial_id]
        attempt.started, attempt.actor = time.monotonic(), actor
        if self._on_start:
            with self._keeping_errors():
                self._on_start(attempt.candidate)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """An outcome. If a worker died, `handle_death` follows, which is told of what."""
        if error or trial_id not in self._running:
            return
        if not result or not {BROKEN, OUTCOME} & set(result):
            self.handle_death(trial_id, "")
            return
        attempt = self._running.pop(trial_id)
        with self._keeping_errors():
            if BROKEN in result:
                raise UserError(result[BROKEN])
            self._tell(attempt.candidate, Outcome.model_validate_json(result[OUTCOME]))

    def handle_death(self, trial_id: str, error: str) -> None:
        """The worker of a candidate died: it is judged once more, on another machine or alone, or has failed.

        Args:
            error: Ray's words for it.

        A MachineFaultError is kept in `error` if this machine's Ray is gone, or one machine after the other.
        """
        attempt = self._running.pop(trial_id, None)
        if attempt is None:
            return
        with self._keeping_errors():
            if not is_machine_death(attempt.file, error):
                self._retry_or_fail(attempt, death_cause(attempt.file, error))
                return
            if is_own_machine_death(error):
                raise MachineFaultError(
                    "Ray's raylet, the process that starts the workers, died; see whether the memory is full"
                )
            machines = attempt.machines + 1
            if machines >= MACHINES:
                raise MachineFaultError(f"{machines} machines went while they judged one candidate; see to the cluster")
            self._again.append(attempt.again(machines=machines))

    def _retry_or_fail(self, attempt: Attempt, cause: str) -> None:
        """A candidate whose worker died of it, of the time limit or of something that may not happen again."""
        seconds = max(0.0, time.monotonic() - attempt.started)
        limit = self._time_limit
        if limit is not None and seconds >= limit:
            self._tell(attempt.candidate, failed_outcome(f"took longer than the time limit of {limit:g} s", seconds))
            return
        if attempt.file is not None:
            self._attempts.note_death(attempt.file, attempt.candidate, cause)
        causes, memory = [*attempt.causes, cause], cause == NO_MEMORY
        if memory and not attempt.alone:  # Ray may have ended the innocent beside the guilty: each is tried alone
            self._again.append(attempt.again(causes=causes, alone=True))
        elif len(causes) < ATTEMPTS and not memory:
            self._again.append(attempt.again(causes=causes, alone=False))
        else:
            self._tell(attempt.candidate, failed_outcome(death_reason("worker", causes), seconds))

    def _tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._source.tell(candidate, outcome)
        self._attempts.settle_deaths(candidate)
        self.outcomes_told += 1

    def requeue_running(self, error: str, *, at_fault: bool) -> None:
        """Tune's loop ended by an error of its own: the candidates that were running are judged by the next loop.

        Args:
            error: its words.
            at_fault: one of the candidates may have brought it about, so this was an attempt of each.
        """
        self.kill_running()
        for trial_id, attempt in list(self._running.items()):
            if at_fault:
                self.handle_death(trial_id, error)
            else:
                self._running.pop(trial_id)
                self._again.append(attempt.again())

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
        for attempt in self._running.values():
            if attempt.actor is not None:
                with contextlib.suppress(Exception):  # it may be dead already
                    ray.kill(attempt.actor)

    def save(self, checkpoint_path: str) -> None:
        """Searches are resumed from the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Searches are resumed from the ledger."""


class BridgeCallback(tune.Callback):
    """Tells the bridge of starts and deaths, and ends the run between two of Tune's steps."""

    def __init__(self, bridge: Bridge, stop: threading.Event, leave: type[BaseException]) -> None:
        """`leave`: raised to end the run."""
        self._bridge, self._stop, self._leave = bridge, stop, leave

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._bridge.note_start(trial.trial_id, actor_of_trial(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._stop.is_set():  # a signal that asked for the stop may have ended workers and raylet too
            self._bridge.handle_death(trial.trial_id, error_text(trial))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._stop.is_set() or self._bridge.done:
            self._bridge.kill_running()
            raise self._leave
