"""The same loop over Ray Tune: one long-lived actor per worker judges candidate after candidate.

A candidate is a Tune trial of one step; its JSON goes to the actor in the trial's config and its outcome's JSON comes
back in the result. Tune keeps the actors (`reuse_actors`), places them on the cluster and notices when they die; this
module decides what a death means.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from models.errors import UserError
from search.candidate import Candidate, Outcome, failed
from search.dispatch.loop import Factory, Resources, Source, build, describe, judge, settle
from search.dispatch.ray_session import quiet, ray_session, scratch, share

# isort: split
import ray  # after ray_session, which sets what Ray reads when it is imported
from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.search import Searcher

ATTEMPTS = 2  # a candidate whose worker dies gets one more, on a fresh worker


class Worker(tune.Trainable):
    """An actor that holds the data and the dense network and judges what its config names."""

    factory: ray.ObjectRef  # of its pickle; these three are set by `_bind`
    threads: int
    time_limit: float | None

    def setup(self, config: dict[str, Any]) -> None:
        self._broken: str | None = None
        torch.set_num_threads(self.threads)
        try:
            self._evaluate = build(cloudpickle.loads(ray.get(self.factory)))
            settle()
        except Exception as error:  # raised here, Tune would take it for the candidate's fault, every time
            self._broken = str(error) if isinstance(error, UserError) else describe(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._broken is not None:
            return {"done": True, "broken": self._broken}
        candidate = Candidate.model_validate_json(self.config["candidate"])
        with _watchdog(self.time_limit):
            outcome = judge(self._evaluate, candidate)
        return {"done": True, "outcome": outcome.model_dump_json()}


@contextlib.contextmanager
def _watchdog(limit: float | None) -> Iterator[None]:
    """End this process after `limit` seconds; from a C thread, which no hanging candidate can hold up."""
    if limit is None:
        yield
        return
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _bind(factory: Factory, threads: int, time_limit: float | None) -> type[Worker]:
    """The worker's class with what it needs to know; the factory travels once a worker, through the object store."""
    attributes = {"factory": ray.put(cloudpickle.dumps(factory)), "threads": threads, "time_limit": time_limit}
    return type("Worker", (Worker,), attributes)


class _Abandon(BaseException):
    """Leaves Tune's loop at once, past its orderly but slow clean-up."""


class _Finish(Exception):  # noqa: N818
    """Leaves Tune's loop through its clean-up, so that this Ray session can be used again."""


@dataclass
class _Attempt:
    """A candidate on its way."""

    candidate: Candidate
    number: int = 1
    alone: bool = False
    """Nothing else may run beside it: the memory was full, and Ray ends whoever it chooses."""
    out_of_memory: bool = False
    started: float = math.inf  # time.monotonic() when its worker got it
    actor: Any = None


class _Bridge(Searcher):
    """What Tune asks and tells, passed on to the source; errors of the source end the run and are kept for the caller.

    Never hands out more than `workers` candidates at a time: one asked ahead would be chosen knowing less.
    """

    def __init__(self, source: Source, resources: Resources, on_start: Callable[[Candidate], None] | None) -> None:
        super().__init__()
        self._source, self._time_limit, self._on_start = source, resources.time_limit, on_start
        self.workers = resources.workers
        self._again: list[_Attempt] = []
        self.running: dict[str, _Attempt] = {}
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or self._source.done

    def suggest(self, trial_id: str) -> Any:
        with self._keeping_errors():
            if not self.done and self._room():
                attempt = self._next()
                if attempt is not None:
                    self.running[trial_id] = attempt
                    return {"candidate": attempt.candidate.model_dump_json()}
                if not (self.running or self.done):
                    raise RuntimeError("the source waits for an outcome, but no candidate is running")
        return str(Searcher.FINISHED) if self.done else None

    def _room(self) -> bool:
        if any(attempt.alone for attempt in self.running.values()):
            return False
        if self._again and self._again[0].alone:
            return not self.running
        return len(self.running) < self.workers

    def _next(self) -> _Attempt | None:
        if self._again:
            return self._again.pop(0)
        candidate = self._source.ask()
        return None if candidate is None else _Attempt(candidate)

    def started(self, trial_id: str, actor: Any) -> None:
        attempt = self.running[trial_id]
        attempt.started, attempt.actor = time.monotonic(), actor
        if self._on_start:
            with self._keeping_errors():
                self._on_start(attempt.candidate)

    def out_of_memory(self, trial_id: str) -> None:
        """Ray ended its worker because the machine's memory was full; that it is lost follows."""
        if trial_id in self.running:
            self.running[trial_id].out_of_memory = True

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        attempt = self.running.pop(trial_id, None)
        if attempt is None:
            return
        with self._keeping_errors():
            if result and "broken" in result:
                raise UserError(result["broken"])
            if result and "outcome" in result:
                self._source.tell(attempt.candidate, Outcome.model_validate_json(result["outcome"]))
            else:
                self._lost(attempt)

    def _lost(self, attempt: _Attempt) -> None:
        """Its worker died: because of the time limit, or of something that may not happen again."""
        seconds = max(0.0, time.monotonic() - attempt.started)
        limit = self._time_limit
        if limit is not None and seconds >= limit:
            self._source.tell(attempt.candidate, failed(f"took longer than the time limit of {limit:g} s", seconds))
        elif attempt.out_of_memory and not attempt.alone:
            self._again.append(_Attempt(attempt.candidate, attempt.number + 1, alone=True))
        elif attempt.number < ATTEMPTS and not attempt.out_of_memory:
            self._again.append(_Attempt(attempt.candidate, attempt.number + 1))
        else:
            cause = "the machine ran out of memory" if attempt.out_of_memory else "killed, out of memory, or crashed"
            reason = f"its worker died {attempt.number} times ({cause})"
            self._source.tell(attempt.candidate, failed(reason, seconds))

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


class _Watch(tune.Callback):
    """Passes starts on, and ends the run between two of Tune's steps."""

    def __init__(self, bridge: _Bridge, stop: threading.Event, leave: type[BaseException]) -> None:
        self._bridge, self._stop, self._leave = bridge, stop, leave

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._bridge.started(trial.trial_id, trial.temporary_state.ray_actor)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._stop.is_set() or self._bridge.done:
            self._bridge.kill_running()
            raise self._leave


class _Controller(TuneController):
    """Tune's loop, with workers that stay: by itself it ends idle ones, and ones that start while another is free.

    And one that hears of workers ended for lack of memory, which by itself ends the whole run.
    Overrides internals; should Ray rename them, everything works as before but slower, and not beyond the memory.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        manager: Any = self._actor_manager
        start_failed, task_failed = manager._actor_start_failed, manager._actor_task_failed

        def start(tracked_actor: Any, exception: Exception) -> None:
            self._hear(tracked_actor, exception)
            start_failed(tracked_actor, exception)

        def task(tracked_actor_task: Any, exception: Exception) -> None:
            self._hear(tracked_actor_task._tracked_actor, exception)
            known = isinstance(exception, RayActorError | RayTaskError) or not isinstance(exception, RayError)
            task_failed(tracked_actor_task, exception if known else RayActorError())

        manager._actor_start_failed, manager._actor_task_failed = start, task

    def _hear(self, actor: Any, error: Exception) -> None:
        memory, trial = isinstance(error, OutOfMemoryError), self._actor_to_trial.get(actor)
        if memory:  # Ray may have ended idle workers as well: who has its one try alone must not meet a dead one
            self._cleanup_cached_actors(force_all=True)
        if trial is not None:
            trial._default_result_or_future = None  # Tune would read the greeting, and raise what it died of
            if memory:
                self._bridge.out_of_memory(trial.trial_id)

    @property
    def _bridge(self) -> _Bridge:
        generator: Any = self._search_alg  # Tune's wrapping of it
        bridge: _Bridge = generator.searcher
        return bridge

    def _maybe_cache_trial_actor(self, trial: Any) -> bool:
        """Keep every idle worker while the source waits for outcomes, not just one."""
        missing = self._bridge.workers - self._actor_cache.total_max_objects
        if missing > 0:
            self._actor_cache.increase_max(trial.placement_group_factory, missing)
        return bool(super()._maybe_cache_trial_actor(trial))

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        """Not for a candidate whose own worker is starting: that one would be ended, and the next one after it."""
        own = self._trial_to_actor.get(trial)
        if own is not None and trial not in self._resetting_trials and self._actor_manager.is_actor_started(own):
            return False
        return bool(super()._maybe_reuse_cached_actor(trial))


def dispatch_on_ray(
    source: Source,
    factory: Factory,
    resources: Resources,
    on_start: Callable[[Candidate], None] | None,
    stop: threading.Event,
) -> None:
    """`dispatch` for one worker or more; see there."""
    if source.done or stop.is_set():
        return
    mine = not ray.is_initialized()
    bridge = _Bridge(source, resources, on_start)
    with ray_session(resources):
        cpus = share(resources)
        worker = _bind(factory, max(1, int(cpus)), resources.time_limit)
        watch = _Watch(bridge, stop, _Abandon if mine else _Finish)
        with scratch("tune") as folder, quiet(), contextlib.suppress(_Abandon, _Finish):
            _run(worker, bridge, watch, resources, cpus, folder)
    if bridge.error is not None:
        raise bridge.error


def _run(worker: type[Worker], bridge: _Bridge, watch: _Watch, resources: Resources, cpus: float, folder: str) -> None:
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.workers)  # workers start at the same time
    with mock.patch("ray.tune.tune.TuneController", _Controller):
        tune.run(
            worker,
            name="search",
            num_samples=-1,
            search_alg=bridge,
            resources_per_trial={"cpu": cpus, "gpu": resources.gpus_per_worker},
            callbacks=[watch],
            reuse_actors=True,
            storage_path=folder,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            verbose=0,
            raise_on_failed_trial=False,
        )
