"""The Ray actor that judges: it holds data and dense network, and takes candidate after candidate."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from search.candidate import Candidate
from search.dispatch.attempts import attempt_file
from search.dispatch.contract import Factory
from search.dispatch.evaluation import build_evaluator, describe_error, judge_candidate
from search.dispatch.ray_environment import ray, tune

CANDIDATE, ATTEMPT_FILE = "candidate", "attempt_file"  # in a trial's config
OUTCOME, BROKEN = "outcome", "broken"  # in its result: the outcome's JSON, or why this worker can judge nothing
WITH_CLASS = 2**20  # bytes of a factory that go with the worker's class; Ray warns of classes above 95 MiB


class Worker(tune.Trainable):
    """A Tune trainable whose trials have one step: the judging of the candidate in their config."""

    factory: bytes | ray.ObjectRef  # its pickle; these three are set by `bind_worker`
    threads: int
    time_limit: float | None

    def setup(self, config: dict[str, Any]) -> None:
        self._broken: str | None = None
        # Ray's handler raises SystemExit, which would read as the candidate's own. Slurm and containers send SIGTERM
        # to all processes; with the system's handler this one dies, and its candidate is judged by another.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(self.threads)
        try:
            with _attempt_of(config):  # the data may be read, and the dense network run, by native code
                pickled = self.factory if isinstance(self.factory, bytes) else ray.get(self.factory)
                self._evaluate = build_evaluator(ray.cloudpickle.loads(pickled))
        except Exception as error:  # raised here, Tune would take it for the candidate's fault, every time
            self._broken = str(error) if isinstance(error, UserError) else describe_error(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._broken is not None:
            return {"done": True, BROKEN: self._broken}
        with _end_process_after(self.time_limit), _attempt_of(self.config):
            outcome = judge_candidate(self._evaluate, _candidate_of(self.config))
        return {"done": True, OUTCOME: outcome.model_dump_json()}


def _candidate_of(config: dict[str, Any]) -> Candidate:
    return Candidate.model_validate_json(config[CANDIDATE])


def _attempt_of(config: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """The attempt is written to the run's folder, where a crash can be read after it."""
    return attempt_file(Path(config[ATTEMPT_FILE]), _candidate_of(config), "worker")


@contextlib.contextmanager
def _end_process_after(limit: float | None) -> Iterator[None]:
    """End this process if this lasts longer than `limit` seconds; a C thread does it, which no candidate can block."""
    if limit is None:
        yield
        return
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def bind_worker(factory: Factory, threads: int, time_limit: float | None) -> type[Worker]:
    """The worker's class with its factory, threads and time limit.

    A factory with a user's network in it may have a gigabyte, and travels through Ray's object store. Others go with
    the class: a driver whose objects lie in the store is ended by Ray (`PlasmaClient`, exit code 1) as soon as Ray
    looks for them there after the raylet has died, and could write no report.
    """
    pickled = ray.cloudpickle.dumps(factory)
    sent = pickled if len(pickled) <= WITH_CLASS else ray.put(pickled)
    return type("Worker", (Worker,), {"factory": sent, "threads": threads, "time_limit": time_limit})
