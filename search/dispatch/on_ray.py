"""Dispatching over Ray: one long-lived actor per worker, handed candidate after candidate by Tune's loop."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from models.errors import UserError
from search.candidate import Candidate
from search.dispatch.attempts import AttemptLog
from search.dispatch.bridge import Bridge, Watch, is_out_of_memory
from search.dispatch.loop import Factory, Resources, Source, describe
from search.dispatch.ray_session import quiet, ray_session, share
from search.dispatch.scratch import scratch
from search.dispatch.tune_internals import use_internals
from search.dispatch.worker import Worker, bind_worker

# isort: split
from ray import tune  # after ray_session, which sets what Ray reads when it is imported

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
    import ray

    if source.done or stop.is_set():
        return
    mine = not ray.is_initialized()
    with ray_session(resources):
        cpus = share(resources)
        worker = bind_worker(factory, max(1, int(cpus)), resources.time_limit)
        with scratch("tune") as folder, quiet():
            bridge = Bridge(source, resources, on_start, attempts.in_folder(Path(folder) / "attempts"))
            watch = Watch(bridge, stop, _Abandon if mine else _Finish)
            with contextlib.suppress(_Abandon, _Finish):
                _run_until_done(worker, bridge, watch, stop, cpus, resources.gpus_per_worker, folder)
    if bridge.error is not None:
        raise bridge.error


def _run_until_done(
    worker: type[Worker],
    bridge: Bridge,
    watch: Watch,
    stop: threading.Event,
    cpus: float,
    gpus: float,
    folder: str,
) -> None:
    """Tune's loop, begun anew where it ends by an error of its own rather than a candidate's.

    That happens where memory was full and the overrides of Tune's internals are not in force. The first error that has
    another reason is not held against the candidates that were running; later ones are.
    """
    fruitless, blameless = 0, True
    while not (bridge.done or stop.is_set()):
        told = bridge.told
        try:
            _run_tune(worker, bridge, watch, cpus, gpus, folder)
            return
        except _Finish:
            raise
        except Exception as error:
            words = _chain_words(error)
            memory = is_out_of_memory(words)
            bridge.interrupt(words, at_fault=memory or not blameless)
            blameless = blameless and memory
            fruitless = 0 if bridge.told > told else fruitless + 1
            if fruitless > PATIENCE:
                raise UserError(
                    f"Ray Tune failed {fruitless} times in a row ({describe(error)}); try --workers 0"
                ) from error


def _chain_words(error: BaseException | None) -> str:
    """An error's words with those of what caused it."""
    words = []
    while error is not None:
        words.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(words)


def _run_tune(worker: type[Worker], bridge: Bridge, watch: Watch, cpus: float, gpus: float, folder: str) -> None:
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(bridge.workers)  # workers start at the same time
    with use_internals():
        tune.run(
            worker,
            name="search",
            num_samples=-1,
            search_alg=bridge,
            resources_per_trial={"cpu": cpus, "gpu": gpus},
            callbacks=[watch],
            reuse_actors=True,
            storage_path=folder,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            verbose=0,
            raise_on_failed_trial=False,
        )
