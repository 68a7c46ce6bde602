"""Who hands out candidates and who judges them: the interface of a search, and its loop in one process."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from models.errors import UserError
from search.candidate import Candidate, Outcome, failed
from search.dispatch.attempts import ATTEMPTS, AttemptLog, death_reason

Evaluate = Callable[[Candidate], Outcome]
Factory = Callable[[], Evaluate]
"""Builds a worker's evaluator once: data and dense network loaded, ready for candidate after candidate. Picklable."""

# How torch's allocators put it, on GPUs, on Windows and on Linux.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
REASON_LENGTH = 300  # characters of an exception's message that are kept


class Source(Protocol):
    """Where candidates come from and outcomes go to; called by one thread, in the order of events."""

    def ask(self) -> Candidate | None:
        """The next candidate; None when there is none before another outcome is told."""

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """An outcome, as it arrives; exactly once for every candidate asked, unless the search is stopped."""

    @property
    def done(self) -> bool:
        """Nothing will be asked again and nothing outstanding is needed."""


@dataclass(frozen=True)
class Resources:
    """What candidates run on."""

    workers: int = 0
    """Processes that judge candidates at the same time; 0 judges them in this process, one by one."""
    gpus_per_worker: float = 0.0
    """Fractions share a GPU; 0 hides GPUs from workers, but not from this process (`workers=0`)."""
    ray_address: str | None = None
    """A running Ray cluster (`auto` or host:port); None starts one on this machine."""
    time_limit: float | None = None
    """Seconds that one candidate may take in a worker; not enforced with `workers=0`."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"workers must be 0 (in this process) or more, not {self.workers}")
        if not 0 <= self.gpus_per_worker < math.inf:
            raise UserError(f"GPUs per worker must be 0 or more, not {self.gpus_per_worker}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise UserError(f"GPUs per worker must be a fraction of one or a whole number, not {self.gpus_per_worker}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise UserError(f"the time limit must be more than 0 seconds, not {self.time_limit}")
        if self.workers == 0 and self.ray_address is not None:
            raise UserError(f"a Ray cluster ({self.ray_address}) needs at least one worker, not 0")


def dispatch(
    source: Source,
    factory: Factory,
    resources: Resources,
    *,
    on_start: Callable[[Candidate], None] | None = None,
    stop: threading.Event | None = None,
    attempts: AttemptLog | None = None,
) -> None:
    """Judge what `source` hands out until it is done or `stop` is set.

    A candidate that raises, runs out of memory, diverges, outlasts the time limit or loses its process twice is told
    as failed. After `stop` no candidate starts; workers are killed, a candidate in this process is finished first.

    Args:
        attempts: remembers, beyond the end of this process, which candidates were being judged when their process
            died. Without it a crash in this process leaves nothing.

    Raises:
        UserError: a worker could not be set up (`factory` raised), or the resources are not there.
        Exception: whatever `source` or `on_start` raised.
    """
    stop, attempts = stop or threading.Event(), attempts or AttemptLog(None)
    try:
        attempts.clear()
        if resources.workers == 0:
            _dispatch_here(source, factory, on_start, stop, attempts)
            return
        from search.dispatch.on_ray import dispatch_on_ray  # Ray takes a second to import

        dispatch_on_ray(source, factory, resources, on_start, stop, attempts)
    except KeyboardInterrupt:  # Ctrl-C once more: at once
        stop.set()
    finally:
        attempts.clear()  # of the workers that were just ended
        attempts.close()


def _dispatch_here(
    source: Source,
    factory: Factory,
    on_start: Callable[[Candidate], None] | None,
    stop: threading.Event,
    attempts: AttemptLog,
) -> None:
    try:
        evaluate: Evaluate | None = None
        while not (source.done or stop.is_set()):
            candidate = source.ask()
            if candidate is None:
                raise RuntimeError("the source waits for an outcome, but no candidate is running")
            if evaluate is None:
                evaluate = build(factory)
                settle()
            if on_start:
                on_start(candidate)
            source.tell(candidate, _judge_logged(evaluate, candidate, attempts))
            attempts.settle(candidate)
    finally:
        gc.unfreeze()


def _judge_logged(evaluate: Evaluate, candidate: Candidate, attempts: AttemptLog) -> Outcome:
    """`judge`, unless this process has died of the candidate as often as it may."""
    deaths = attempts.deaths(candidate)
    if len(deaths) >= ATTEMPTS:
        return failed(death_reason("process", deaths))
    with attempts.judging_here(candidate):
        return judge(evaluate, candidate)


def build(factory: Factory) -> Evaluate:
    """The evaluator of this process; any error in building it is the user's to see."""
    try:
        return factory()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"a worker could not be set up: {describe(error)}") from error


def judge(evaluate: Evaluate, candidate: Candidate) -> Outcome:
    """The candidate's outcome; whatever goes wrong inside it becomes a failed one."""
    start = time.perf_counter()
    try:
        outcome = evaluate(candidate)
    except (Exception, SystemExit) as error:
        outcome = failed(_reason(error), seconds=time.perf_counter() - start)
    else:
        for name in ("loss", "accuracy"):
            value = getattr(outcome, name)
            if outcome.status == "ok" and value is not None and not math.isfinite(value):
                outcome = failed(f"diverged: its {name} is {value}", outcome.seconds, outcome.device)
    release_memory()  # here, where no traceback holds the candidate's tensors any more
    return outcome


def describe(error: BaseException) -> str:
    """`Type: message` on one line, shortened."""
    text = " ".join(str(error).split())
    text = text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    prefix = "ran out of memory, " if _is_out_of_memory(error) else ""
    return prefix + describe(error)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def release_memory() -> None:
    """Give back what the last candidate held: reference cycles, CUDA's cache, and free pages of the C heap."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if _libc is not None:
        _libc.malloc_trim(0)


def settle() -> None:
    """Take all that exists now, which stays, out of the collector's sight: 130 ms of every collection become 0."""
    gc.collect()
    gc.freeze()


def _load_libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None  # musl has none


_libc = _load_libc()
