"""`dispatch`: candidates of a source judged until there are no more, in this process or by Ray's workers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

from search.candidate import Candidate, failed_outcome
from search.dispatch.attempts import ATTEMPTS, AttemptLog, death_reason
from search.dispatch.contract import Evaluate, Factory, Resources, Source
from search.dispatch.evaluation import build_evaluator, judge_candidate


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
        attempts.remove_harmless()
        if resources.workers == 0:
            _dispatch_in_process(source, factory, on_start, stop, attempts)
            return
        # Imported here for start-up time alone: Ray takes a second.
        from search.dispatch.on_ray import dispatch_on_ray

        dispatch_on_ray(source, factory, resources, on_start, stop, attempts)
    except KeyboardInterrupt:  # the second Ctrl-C: nothing is waited for
        stop.set()
    finally:
        attempts.remove_harmless()  # files of workers that were just ended
        attempts.remove_empty_folder()


def _dispatch_in_process(
    source: Source,
    factory: Factory,
    on_start: Callable[[Candidate], None] | None,
    stop: threading.Event,
    attempts: AttemptLog,
) -> None:
    evaluate: Evaluate | None = None
    try:
        while not (source.done or stop.is_set()):
            candidate = source.ask()
            if candidate is None:
                raise RuntimeError("the source waits for an outcome, but no candidate is running")
            evaluate = evaluate or build_evaluator(factory)  # not before: a search may have nothing to judge
            if on_start:
                on_start(candidate)
            deaths = attempts.past_deaths(candidate)
            if len(deaths) >= ATTEMPTS:
                outcome = failed_outcome(death_reason("process", deaths))
            else:
                with attempts.judging_here(candidate):
                    outcome = judge_candidate(evaluate, candidate)
            source.tell(candidate, outcome)
            attempts.settle_deaths(candidate)
    finally:
        gc.unfreeze()
