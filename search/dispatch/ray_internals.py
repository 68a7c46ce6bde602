"""All private names of Ray that are used or overridden, with the reason for each and what happens without it.

Written for ray 2.60. A name that a later version lacks is passed over, and the outcomes stay the same;
`tests/search/dispatch/test_ray_internals.py` renames those of Tune and sees to that.

In Tune, for speed (the public interface has `reuse_actors=True` alone):

- `TuneController._maybe_cache_trial_actor` keeps one idle actor and ends the others, while none of our trials is
  pending: the next candidate is chosen when an outcome is there. A worker takes seconds to load the task.
- `TuneController._maybe_reuse_cached_actor` ends an actor that is starting for a trial when another one is free. Ray's
  pull request 42951 calls the number of actors "nondeterministic and unstable", and turned reuse off by default for it.

In Ray, around its start and end: see the functions below.
"""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any
from unittest import mock

from search.dispatch.ray_environment import ray, tune
from search.machine.signals import ignore_signals, reinstall_handlers

# What Tune's loop calls that waits for an answer of Ray's GCS: module and function.
ASKS_GCS = (
    ("ray", "cluster_resources"),
    ("ray.util", "remove_placement_group"),
    ("ray.air.execution.resources.request", "placement_group"),
    ("ray.air.execution.resources.placement_group", "remove_placement_group"),
)


@contextlib.contextmanager
def keep_idle_workers() -> Iterator[None]:
    """While this lasts, `tune.run` keeps its workers, if `TuneController` is made as it was."""
    controller = _controller_class()
    if controller is None:
        yield
        return
    with mock.patch("ray.tune.tune.TuneController", controller):
        yield


def _controller_class() -> type[Any] | None:
    """TuneController with our overrides; None if it, or a method that they extend, is missing."""
    controller: Any = getattr(tune.tune, "TuneController", None)
    methods = ("_maybe_cache_trial_actor", "_maybe_reuse_cached_actor")
    if not all(callable(getattr(controller, name, None)) for name in methods):
        return None
    return type("Controller", (KeepWorkers, controller), {})


class KeepWorkers:
    """Mixed into TuneController: keeps every idle actor, and those that start while another is free."""

    def _maybe_cache_trial_actor(self: Any, trial: Any) -> bool:
        """Raise the number of idle actors that may be kept to that of all workers, then do as Tune does."""
        with contextlib.suppress(AttributeError):
            missing = self._search_alg.searcher.workers - self._actor_cache.total_max_objects
            if missing > 0:
                self._actor_cache.increase_max(trial.placement_group_factory, missing)
        return bool(super()._maybe_cache_trial_actor(trial))  # type: ignore[misc]

    def _maybe_reuse_cached_actor(self: Any, trial: Any) -> bool:
        """Not for a trial whose own actor is starting: Tune would end that one, and the next one after it."""
        with contextlib.suppress(AttributeError):
            actor = self._trial_to_actor.get(trial)
            starting = actor is not None and trial not in self._resetting_trials
            if starting and self._actor_manager.is_actor_started(actor):
                return False
        return bool(super()._maybe_reuse_cached_actor(trial))  # type: ignore[misc]


@contextlib.contextmanager
def leave_when_stopped(stop: threading.Event, leave: type[BaseException]) -> Iterator[None]:
    """While this lasts, Tune's loop is left where it would ask Ray's GCS for anything after a stop.

    A signal to every process ends Ray's own as well. Returning the resources of a dead worker, or asking what the
    cluster has, then waits 60 s for the GCS, after which Ray ends this process (`rpc_client.h`: "Failed to connect to
    GCS"), and the search has written no report.

    Args:
        leave: raised to end the loop; no Exception, as Tune would catch it. Who catches it does so inside this block.
    """
    in_loop = True

    def unless_stopped(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def leave_or_call(*arguments: Any, **options: Any) -> Any:
            if stop.is_set():
                if in_loop:
                    raise leave
                return None
            return call(*arguments, **options)

        return leave_or_call

    with contextlib.ExitStack() as patches:
        for module_name, function_name in ASKS_GCS:
            module = sys.modules.get(module_name)
            call = getattr(module, function_name, None)
            if call is not None:
                patches.enter_context(mock.patch.object(module, function_name, unless_stopped(call)))
        try:
            yield
        finally:
            in_loop = False
            if stop.is_set():
                # Tune's manager of resources returns them when it is finalized: here, asking nobody. Not interrupted,
                # because Python drops what is raised in a finalizer.
                with ignore_signals():
                    gc.collect()


def actor_of_trial(trial: Any) -> Any:
    """The handle of the actor that runs a trial; without it, a stop waits for the candidates instead of ending them."""
    return getattr(getattr(trial, "temporary_state", None), "ray_actor", None)


@contextlib.contextmanager
def listen_on_loopback() -> Iterator[None]:
    """Ray started meanwhile listens on 127.0.0.1 alone, as it does by itself on macOS and Windows.

    There it is for firewalls that ask (Ray issue 18730). `_node_ip_address="127.0.0.1"` is of no use: Ray replaces it
    by the address of the network, on which everybody who reaches this machine could run code.
    """
    with mock.patch("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False, create=True):
        yield


@contextlib.contextmanager
def start_in_own_group() -> Iterator[None]:
    """Ray's processes started meanwhile do not get the signals of this process group, as `timeout` sends SIGTERM to it.

    Ray ends a driver whose raylet is gone in the middle of its work. Ctrl-C does not reach Ray's processes anyway.
    """
    services = ray._private.services
    start = getattr(services, "ConsolePopen", subprocess.Popen)
    with mock.patch.object(services, "ConsolePopen", partial(start, process_group=0), create=True):
        yield


@contextlib.contextmanager
def leave_sigterm_alone() -> Iterator[None]:
    """Ray started meanwhile puts no SIGTERM handler of its own, which calls sys.exit, over the search's."""
    with mock.patch("ray._private.utils.set_sigterm_handler", _do_nothing, create=True):
        yield


@contextlib.contextmanager
def hide_raylet_messages() -> Iterator[None]:
    """Messages of the raylet are not printed, which would spoil `--json`; Ray does not log them."""
    with mock.patch("ray._private.worker.print_to_stdstream", _do_nothing, create=True):
        yield


def shut_down_ray() -> None:
    """End Ray, with the search's signal handlers in force while it waits for its processes.

    Before that wait, which takes a second, Ray's logging resets SIGTERM to the system's own handler
    (`RayLog::UninstallSignalAction`), and Python does not notice: `timeout` or a second signal would kill this process.
    `state.disconnect` is the next function that Ray calls after the reset.
    """
    state = ray._private.state.state
    disconnect = getattr(state, "disconnect", _do_nothing)

    def reinstall_and_disconnect() -> None:
        reinstall_handlers()
        disconnect()

    with mock.patch.object(state, "disconnect", reinstall_and_disconnect, create=True):
        ray.shutdown()
    reinstall_handlers()


def _do_nothing(*_: object, **__: object) -> None:
    pass
