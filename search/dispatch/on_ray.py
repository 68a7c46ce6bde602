"""Dispatching over Ray: one long-lived actor per worker, handed candidate after candidate by Tune's loop."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

from models.errors import UserError
from models.settings import setting_name
from search.candidate import Candidate
from search.dispatch.attempts import AttemptLog
from search.dispatch.bridge import Bridge, BridgeCallback
from search.dispatch.contract import Factory, Resources, Source
from search.dispatch.evaluation import describe_error
from search.dispatch.ray_environment import ray, tune
from search.dispatch.ray_internals import keep_idle_workers, leave_when_stopped
from search.dispatch.ray_session import ray_session, silence_ray, worker_cpus
from search.dispatch.scratch import scratch_folder
from search.dispatch.worker import Worker, bind_worker
from search.dispatch.worker_deaths import chain_words, is_out_of_memory

PATIENCE = 3  # loops in a row that may end by an error of Tune's without an outcome


class _Abandon(BaseException):
    """Leaves Tune's loop at once, past its orderly but slow clean-up."""


class _Finish(Exception):  # noqa: N818
    """Leaves Tune's loop through its clean-up, so that this Ray session can be used again."""


def dispatch_on_ray(
    source: Source,
    factory: Factory,
    resources: Resources,
    on_start: Callable[[Candidate], None] | None,
    stop: threading.Event,
    attempts: AttemptLog,
) -> None:
    """`dispatch` for one worker or more; see there."""
    if source.done or stop.is_set():
        return
    own_session = not ray.is_initialized()
    with ray_session(resources):
        cpus = worker_cpus(resources)
        worker = bind_worker(factory, cpus, resources.time_limit)
        with scratch_folder("tune") as folder, silence_ray():
            bridge = Bridge(source, resources, on_start, attempts.in_folder(Path(folder) / "attempts"))
            callback = BridgeCallback(bridge, stop, _Abandon if own_session else _Finish)
            leaving = leave_when_stopped(stop, _Abandon) if own_session else contextlib.nullcontext()
            with leaving, contextlib.suppress(_Abandon, _Finish):
                _run_until_done(worker, bridge, callback, stop, {"cpu": cpus, "gpu": resources.gpus_per_worker}, folder)
    if bridge.error is not None:
        raise bridge.error


def _run_until_done(
    worker: type[Worker],
    bridge: Bridge,
    callback: BridgeCallback,
    stop: threading.Event,
    share: dict[str, float],
    folder: str,
) -> None:
    """Tune's loop, begun anew where it ends by an error of its own rather than a candidate's.

    That happens when Ray ends a worker because memory is full: the error, OutOfMemoryError, is no RayActorError, and
    Tune's actor manager raises "Caught unexpected exception" for it. The first error that has another reason is not
    held against the candidates that were running; later ones are.

    Args:
        share: of the machine's resources, for each worker.
    """
    fruitless, blameless = 0, True
    while not (bridge.done or stop.is_set()):
        told = bridge.outcomes_told
        try:
            _run_tune(worker, bridge, callback, share, folder)
            return
        except _Finish:
            raise
        except Exception as error:
            words = chain_words(error)
            memory = is_out_of_memory(words)
            bridge.requeue_running(words, at_fault=memory or not blameless)
            blameless = blameless and memory
            fruitless = 0 if bridge.outcomes_told > told else fruitless + 1
            if fruitless > PATIENCE:
                raise UserError(
                    f"Ray Tune failed {fruitless} times in a row ({describe_error(error)}); try "
                    f"{setting_name('workers')} 0"
                ) from error
        gc.collect()  # Ray ends idle workers, which hold memory, once the last reference to the old loop is gone


def _run_tune(
    worker: type[Worker], bridge: Bridge, callback: BridgeCallback, share: dict[str, float], folder: str
) -> None:
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(bridge.workers)  # workers start at the same time
    with keep_idle_workers():
        tune.run(
            worker,
            name="search",
            num_samples=-1,
            search_alg=bridge,
            resources_per_trial=share,
            callbacks=[callback],
            reuse_actors=True,
            storage_path=folder,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            verbose=0,
            raise_on_failed_trial=False,
        )
