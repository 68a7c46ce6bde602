"""Measured latency of a dense and a compressed network, in turns, in the same exported form on the same machine.

Each round times both, one after the other, so that a machine that slows down or is shared slows both. Reported are the
median of the rounds and the distance between their quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.execution.inputs import Inputs
from models.wording import plural
from search.candidate import Frozen

ROUNDS = 15
LEAST_ROUNDS = 5
BUDGET = 12.0  # seconds for one pair, after which no round begins beyond the least number
BLOCK = 0.03  # seconds of calls that are timed together: far longer than the resolution of the clock
BATCHES = (1, 64)
Forward = Callable[[Inputs], list[Tensor]]  # a network, in torch or in an exported form: all tensors it returns


class Latency(Frozen):
    """Dense and compressed in the same form, in turns on the same machine."""

    engine: Literal["torch", "onnxruntime"]
    device: str
    threads: int
    batch: int
    rounds: int
    statistic: Literal["median", "least"] = "median"
    """Over the rounds: the median for an export, the least where a table of least times is checked."""
    dense_ms: float
    dense_spread_ms: float
    """Between the quartiles."""
    compressed_ms: float
    compressed_spread_ms: float
    speed_up: float
    """`dense_ms` over `compressed_ms`, so that the three figures fit each other wherever they are shown."""
    theoretical: float
    """Dense FLOPs / compressed FLOPs."""
    far_below: bool
    """The measured gain is less than half of the one by FLOPs."""

    @property
    def share_of_theory(self) -> float:
        """The measured gain as a share of the one by FLOPs."""
        return self.speed_up / self.theoretical

    @property
    def where_text(self) -> str:
        """`cpu (AMD EPYC), torch, 2 threads`; the batch if it is not 1, the statistic if it is not the median."""
        batch = f", batch {self.batch}" if self.batch != 1 else ""
        least = f", least of {self.rounds} rounds" if self.statistic == "least" else ""
        return f"{self.device}, {self.engine}, {plural(self.threads, 'thread')}{batch}{least}"


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call, a value per round."""

    dense: tuple[float, ...]
    compressed: tuple[float, ...]


def measure_pair(dense: Callable[[], object], compressed: Callable[[], object], *, clock: Callable[[], float]) -> Times:
    """Time both in turns; the order within a round alternates.

    Args:
        clock: seconds, once everything asked for before is done.
    """
    seconds = time_in_turns(
        (dense, compressed), clock=clock, rounds=ROUNDS, least=LEAST_ROUNDS, budget=BUDGET, block=BLOCK
    )
    dense_ms, compressed_ms = (tuple(1e3 * value for value in rounds) for rounds in seconds)
    return Times(dense_ms, compressed_ms)


def time_in_turns(
    runs: Sequence[Callable[[], object]],
    *,
    clock: Callable[[], float],
    rounds: int,
    least: int,
    budget: float,
    block: float,
    enough: Callable[[Sequence[Sequence[float]]], bool] = lambda seconds: False,
) -> list[list[float]]:
    """Seconds of one call of each run, a value per round; the order of the runs reverses from round to round.

    Args:
        least: rounds that are made in any case.
        budget: seconds, after which no further round begins.
        block: seconds of calls that are timed together.
        enough: whether the seconds so far will do, so that no further round begins.
    """
    counts = [_calls_per_block(run, clock, block) for run in runs]
    found: list[list[float]] = [[] for _ in runs]
    start, order = clock(), range(len(runs))
    for number in range(rounds):
        if number >= least and (clock() - start > budget or enough(found)):
            break
        for which in order if number % 2 == 0 else reversed(order):
            found[which].append(_time_block(runs[which], counts[which], clock))
    return found


def _calls_per_block(run: Callable[[], object], clock: Callable[[], float], block: float) -> int:
    """The number of calls that fill a block; a first call warms up and does not count."""
    run()
    start, calls = clock(), 0
    while clock() - start < block:
        run()
        calls += 1
    return calls


def _time_block(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Seconds per call, over `calls` calls."""
    run()  # threads may still spin idly after the run before; this call ends that
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


def measure_latency(
    dense: Forward, compressed: Forward, inputs: Inputs, *, engine: str, device: str, threads: int, theoretical: float
) -> Latency:
    """Latency of both networks on the same batch."""
    times = measure_pair(lambda: dense(inputs), lambda: compressed(inputs), clock=clock_of(inputs.device))
    dense_ms, compressed_ms = statistics.median(times.dense), statistics.median(times.compressed)
    return Latency.model_validate(
        {
            "engine": engine,
            "device": device,
            "threads": threads,
            "batch": len(inputs),
            "rounds": len(times.dense),
            "dense_ms": dense_ms,
            "dense_spread_ms": quartile_distance(times.dense),
            "compressed_ms": compressed_ms,
            "compressed_spread_ms": quartile_distance(times.compressed),
            "speed_up": dense_ms / compressed_ms,
            "theoretical": theoretical,
            "far_below": far_below(dense_ms / compressed_ms, theoretical),
        }
    )


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that waits until all work queued on the device is done."""
    return _cuda_clock if device.type == "cuda" else time.perf_counter


def quiet_clock(device: torch.device) -> Callable[[], float]:
    """A clock of this thread's processor time, unless a GPU or more threads work; then that of `clock_of`.

    Processor time excludes what other processes take.
    """
    single_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if single_thread else clock_of(device)


def _cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def quartile_distance(values: Sequence[float]) -> float:
    """Distance between the quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def far_below(speed_up: float, theoretical: float) -> bool:
    """Whether the measured gain is less than half of the one by FLOPs."""
    return speed_up - 1 < 0.5 * (theoretical - 1)
