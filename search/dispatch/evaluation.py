"""One candidate judged in this process, driver or worker: exceptions become failed outcomes, memory is given back."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import time

import torch

from models.errors import UserError
from search.candidate import Candidate, Outcome, failed_outcome
from search.dispatch.contract import Evaluate, Factory

# How torch's allocators put it, on GPUs, on Windows and on Linux.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
REASON_LENGTH = 300  # characters of an exception's message that are kept


def build_evaluator(factory: Factory) -> Evaluate:
    """The evaluator of this process, and all that exists now frozen: data and network stay until the process ends.

    Frozen objects are not looked at by the garbage collector: 130 ms of every collection become 0.

    Raises:
        UserError: the factory raised, whatever it was.
    """
    try:
        evaluate = factory()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"a worker could not be set up: {describe_error(error)}") from error
    gc.collect()
    gc.freeze()
    return evaluate


def judge_candidate(evaluate: Evaluate, candidate: Candidate) -> Outcome:
    """The candidate's outcome; an exception, and a loss or metric that is no number, make it a failed one."""
    start = time.perf_counter()
    try:
        outcome = evaluate(candidate)
    except (Exception, SystemExit) as error:
        outcome = failed_outcome(_failure_reason(error), seconds=time.perf_counter() - start)
    else:
        for name, value in {"loss": outcome.loss, **outcome.metrics}.items():
            if outcome.status == "ok" and value is not None and not math.isfinite(value):
                outcome = failed_outcome(f"diverged: its {name} is {value}", outcome.seconds, outcome.device)
    release_memory()  # not in the handler above: there the traceback still holds the candidate's tensors
    return outcome


def describe_error(error: BaseException) -> str:
    """`Type: message` on one line, shortened."""
    text = " ".join(str(error).split())
    text = text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failure_reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    words = str(error).lower()
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in words for sign in _NO_MEMORY)
    )
    return ("ran out of memory, " if out_of_memory else "") + describe_error(error)


def release_memory() -> None:
    """Give back what the last candidate held: reference cycles, CUDA's cache, and free pages of the C heap."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if _libc is not None:
        _libc.malloc_trim(0)


def _load_libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None  # musl has none


_libc = _load_libc()
