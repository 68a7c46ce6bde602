"""What is overridden inside Ray Tune, all of it: for speed, and for one fault of Tune's.

Written for ray 2.60. Each override stands for something that Tune's public interface does not offer:

- Idle workers stay. Tune keeps one idle actor and ends the others (`TuneController._maybe_cache_trial_actor`), and it
  ends an actor that is starting for a trial when another one is free (`_maybe_reuse_cached_actor`; Ray's pull request
  42951 calls the number of actors "nondeterministic and unstable" and turned reuse off by default for it). A worker
  of ours takes seconds to load the task, so both cost more than a candidate.
- A worker that Ray ends because memory is full raises `OutOfMemoryError`, which is no `RayActorError`: Tune's actor
  manager raises "Caught unexpected exception", and `Trial.last_result` raises it once more. That ends the whole run.

Should a name be missing, `use_internals` gives Tune as it is: workers start more often, and `on_ray` begins Tune's loop
anew when memory was full. The outcomes are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

_CONTROLLER = "ray.tune.tune.TuneController"


@contextlib.contextmanager
def use_internals() -> Iterator[None]:
    """While this lasts, `tune.run` keeps workers and survives a full memory, if Tune is made as it was."""
    controller = _controller_class()
    if controller is None:
        yield
        return
    with mock.patch(_CONTROLLER, controller):
        yield


def _controller_class() -> type[Any] | None:
    """Tune's loop with our overrides; None if a method that they extend is missing."""
    try:
        from ray.tune.tune import TuneController
    except ImportError:
        return None
    methods = ("_maybe_cache_trial_actor", "_maybe_reuse_cached_actor", "_cleanup_cached_actors")
    if not all(callable(getattr(TuneController, name, None)) for name in methods):
        return None
    return type("Controller", (Overrides, TuneController), {})


class Overrides:
    """Mixed into TuneController; where an attribute is missing, Tune does what it does by itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with contextlib.suppress(AttributeError):
            self._survive_full_memory()

    def _survive_full_memory(self: Any) -> None:
        """Put the actor manager's two callbacks for failures behind ours."""
        manager = self._actor_manager
        start_failed, task_failed = manager._actor_start_failed, manager._actor_task_failed

        def on_start_failed(tracked_actor: Any, exception: Exception) -> None:
            self._before_failure(tracked_actor, exception)
            start_failed(tracked_actor, as_actor_error(exception))

        def on_task_failed(tracked_actor_task: Any, exception: Exception) -> None:
            self._before_failure(getattr(tracked_actor_task, "_tracked_actor", None), exception)
            task_failed(tracked_actor_task, as_actor_error(exception))

        manager._actor_start_failed, manager._actor_task_failed = on_start_failed, on_task_failed

    def _before_failure(self: Any, actor: Any, error: Exception) -> None:
        with contextlib.suppress(AttributeError):
            if isinstance(error, OutOfMemoryError):
                # Ray may have ended idle workers as well; the candidate's one try alone must not meet a dead one.
                self._cleanup_cached_actors(force_all=True)
            trial = self._actor_to_trial.get(actor)
            if trial is not None:
                # A pending result of the dead actor's first call: Tune calls ray.get() on it, which raises.
                trial._default_result_or_future = None

    def _maybe_cache_trial_actor(self: Any, trial: Any) -> bool:
        """Keep every idle worker while the source waits for outcomes, not just one."""
        with contextlib.suppress(AttributeError):
            missing = self._search_alg.searcher.workers - self._actor_cache.total_max_objects
            if missing > 0:
                self._actor_cache.increase_max(trial.placement_group_factory, missing)
        return bool(super()._maybe_cache_trial_actor(trial))  # type: ignore[misc]

    def _maybe_reuse_cached_actor(self: Any, trial: Any) -> bool:
        """Not for a candidate whose own worker is starting: that one would be ended, and the next one after it."""
        with contextlib.suppress(AttributeError):
            actor = self._trial_to_actor.get(trial)
            starting = actor is not None and trial not in self._resetting_trials
            if starting and self._actor_manager.is_actor_started(actor):
                return False
        return bool(super()._maybe_reuse_cached_actor(trial))  # type: ignore[misc]


def as_actor_error(error: Exception) -> Exception:
    """The error in a form that Tune takes for the death of one actor, its words kept."""
    if isinstance(error, RayActorError | RayTaskError) or not isinstance(error, RayError):
        return error
    return RayActorError(error_msg=f"{type(error).__name__}: {error}")
