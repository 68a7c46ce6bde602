"""Measures the ONNX files of this folder on this device, and writes their times into one file.

    python measure.py [--provider CPUExecutionProvider] [--threads 1] [--batch 1] [--to table.json]

It needs Python 3.8 or later, numpy and onnxruntime 1.18 or later (or a build of it for the device: onnxruntime-gpu,
...), and nothing else. It can be broken off at any time (Ctrl-C); the same command then goes on. A busy device is no
harm but to the time that it takes, as long as it is idle now and then: a file's time is the least of many rounds. On a
CPU with one thread, processor time is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # Python 3.8 cannot subscript these
    from collections.abc import Callable, Iterator, Sequence

    Call = Callable[[], object]

SCHEMA = 1
KIT, TABLE = "kit.json", "table.json"
NETWORKS = "networks"  # the group of whole networks
KIT_KEYS = {"name", "digest", "groups", "files"}  # of kit.json, that this script reads
ROUNDS, LEAST_ROUNDS = 60, 25
BUDGET = 2.0  # seconds for the files that are timed in turns, after which no round begins beyond the least number
BLOCK = 0.0003  # seconds of calls timed together: short, so that other processes interrupt only some of the blocks
FINE = 1e-6  # seconds: the coarsest clock that can time a single call
AGREE = 1.02  # a least time counts as the true one once another round has come this near to it
PASSES = 3  # over all files, so that a busy minute spoils none of them
PATIENCE = 5.0  # seconds between two lines on the progress
INTERRUPTED = 130


class MeasureError(Exception):
    """What the user can mend, in one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all files; returns the exit status."""
    chosen = parse_arguments(arguments)
    try:
        table = measure_kit(
            Path(chosen.kit),
            Path(chosen.to) if chosen.to else Path(chosen.kit) / TABLE,
            provider=chosen.provider,
            threads=chosen.threads,
            batch=chosen.batch,
        )
    except MeasureError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("\nstopped; the same command goes on from here")
        return INTERRUPTED
    say(f"{table['name']} measured: {device_text(table)}; give {table['file']} to --latency-table")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of onnxruntime")
    parser.add_argument("--threads", type=int, default=1, help="threads of one operator, on a CPU")
    parser.add_argument("--batch", type=int, default=1, help="inputs at once")
    parser.add_argument("--to", default=None, metavar="FILE", help="table to write (default: table.json beside this)")
    parser.add_argument("--kit", default=str(Path(__file__).resolve().parent), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure_kit(kit_folder: Path, path: Path, *, provider: str, threads: int, batch: int) -> dict[str, Any]:
    """The table of a kit, written to `path` after every group of files; goes on with one that is there.

    Raises:
        MeasureError: the kit is not whole, onnxruntime lacks the provider or cannot run a file, or the table cannot be
            written, or is there and is of another kit or other conditions.
    """
    if threads < 1 or batch < 1:
        raise MeasureError(f"--threads {threads} --batch {batch} will not do: both are at least 1")
    kit = read_kit(kit_folder / KIT)
    conditions = measuring_conditions(provider, threads, batch)
    table = begin_table(kit, conditions, path)
    write_table(table, path)  # before anything is timed, so that a place that cannot be written is told at once
    done = table["done"]
    # Whole networks first: they have the most operators, and what the runtime cannot do is told at once.
    groups = sorted(kit["groups"], key=lambda group: (group != NETWORKS, group))
    steps = [(number, group) for number in range(PASSES) for group in groups]
    left = [(number, group) for number, group in steps if done.get(group, 0) <= number]
    progress = Progress(len(left))
    for number, group in left:
        files = kit["groups"][group]
        with report_faults(f"{group} of {kit_folder}"):
            runs = [open_file(kit_folder / file, kit["files"][file], provider, threads, batch) for file in files]
            firsts, seconds = time_in_turns(runs, clock_of(provider, threads))
        for file, first, rounds in zip(files, firsts, seconds):
            note_times(table["times"], file, first, rounds)
        done[group] = number + 1
        write_table(table, path)
        progress.count_one()
    table["complete"] = True
    write_table(table, path)
    return dict(table, file=str(path))


def read_kit(path: Path) -> dict[str, Any]:
    """`kit.json`; MeasureError if it is damaged."""
    try:
        kit = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasureError(f"{path} cannot be read ({error}); copy the whole kit again") from None
    if not isinstance(kit, dict) or not set(kit) >= KIT_KEYS:
        raise MeasureError(f"{path} is no kit's; copy the whole kit again")
    return kit


@contextlib.contextmanager
def report_faults(what: str) -> Iterator[None]:
    """Turns what the system or onnxruntime say of files of the kit into a MeasureError."""
    try:
        yield
    except Exception as error:
        # onnxruntime's own exceptions have no base in common.
        if not isinstance(error, (OSError, MemoryError)) and not type(error).__module__.startswith("onnxruntime"):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MeasureError(
            f"{what} cannot be run ({reason}); copy the whole kit again, or take onnxruntime 1.18 or later"
        ) from error


def measuring_conditions(provider: str, threads: int, batch: int) -> dict[str, Any]:
    """Device, runtime and whatever else the times hold for."""
    try:
        import onnxruntime
    except ImportError:
        raise MeasureError("onnxruntime is missing: pip install onnxruntime") from None
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise MeasureError(f"onnxruntime has no provider {provider}; it has {', '.join(available)}")
    return {
        "device": device_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "provider": provider,
        "threads": threads,
        "batch": batch,
        "clock": "processor time" if clock_of(provider, threads) is time.thread_time else "time on the clock",
    }


def clock_of(provider: str, threads: int) -> Callable[[], float]:
    """Processor time, which leaves out other processes, where all work is done by this very thread; else the clock."""
    by_this_thread = provider == "CPUExecutionProvider" and threads == 1
    if by_this_thread and hasattr(time, "thread_time") and time.get_clock_info("thread_time").resolution <= FINE:
        return time.thread_time
    return time.perf_counter


def device_name() -> str:
    """The processor by its maker's name, or the board, as far as the system tells."""
    readers = [("/proc/device-tree/model", r"(.+)"), ("/proc/cpuinfo", r"(?m)^(?:model name|Hardware)\s*:\s*(.+)$")]
    for path, pattern in readers:
        with contextlib.suppress(OSError):
            match = re.search(pattern, Path(path).read_text(errors="replace").strip("\0\n"))
            if match:
                return match.group(1).strip()
    return platform.processor() or platform.machine() or "unknown processor"


def device_text(table: dict[str, Any]) -> str:
    return "{device}, {runtime}, {provider}, {threads} thread(s), batch {batch}".format(**table)


def begin_table(kit: dict[str, Any], conditions: dict[str, Any], path: Path) -> dict[str, Any]:
    """A new table, or the one that an earlier run has begun."""
    fresh = dict(schema=SCHEMA, name=kit["name"], complete=False, **conditions)
    fresh.update(kit=kit, done={}, times={})
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return fresh
    except OSError as error:
        raise MeasureError(f"{path} cannot be read ({error}); name another file with --to") from None
    except ValueError:
        begun = None
    if not isinstance(begun, dict) or any(not isinstance(begun.get(key), dict) for key in ("kit", "done", "times")):
        raise MeasureError(f"{path} is there and is no table; name another file with --to")
    if begun["kit"].get("digest") != kit["digest"] or any(begun.get(key) != value for key, value in conditions.items()):
        raise MeasureError(
            f"{path} is there already, of another kit or measured in another way; "
            "remove it, or name another file with --to"
        )
    return dict(begun)


def write_table(table: dict[str, Any], path: Path) -> None:
    """Whole or not at all, so that a run that is broken off leaves what it had."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(table) + "\n", encoding="utf-8")
        os.replace(str(partial), str(path))
    except OSError as error:
        reason = error.strerror or error
        raise MeasureError(f"{path} cannot be written ({reason}); name another file with --to") from error


def note_times(times: dict[str, Any], file: str, firsts: Sequence[float], seconds: Sequence[float]) -> None:
    """Keep the least time of a file over all passes; median and distance between the quartiles of that pass, in ns.

    `first` is the least of calls after others, whose weights are no longer in the nearest cache, as in a large network.
    """
    low, median, high = (1e9 * float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    entry = {"least": 1e9 * min(seconds), "first": 1e9 * min(firsts), "median": median, "spread": high - low}
    passes = [{key: round(value, 1) for key, value in entry.items()}]
    passes += [times[file]] if file in times else []
    times[file] = dict(min(passes, key=lambda one: one["least"]), first=min(one["first"] for one in passes))


def open_file(path: Path, rows: dict[str, int], provider: str, threads: int, batch: int) -> Call:
    """A call that runs the file once on inputs of its own.

    Args:
        rows: input -> its first size for one input of the network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    if threads > 1:  # idle threads of other files' sessions would spin beside the one that is timed
        options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if session.get_providers()[0] != provider:  # onnxruntime goes on without a provider whose libraries it cannot load
        raise MeasureError(
            f"onnxruntime could not start {provider}, and would run on {session.get_providers()[0]}; "
            "install the libraries that it needs, or name another one with --provider"
        )
    generator = np.random.RandomState(0)
    feeds = {}
    for info in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in info.shape]
        if info.shape and not isinstance(info.shape[0], int):
            shape[0] = batch * rows.get(info.name, 1)
        elif batch > 1:
            raise MeasureError(f"this kit's network takes one input at a time; leave out --batch {batch}")
        if info.type == "tensor(float)":
            feeds[info.name] = generator.standard_normal(shape).astype(np.float32)
        else:
            feeds[info.name] = np.zeros(shape, dtype=numpy_type(info.type))
    if provider == "CPUExecutionProvider":
        return lambda: session.run(None, feeds)
    # Inputs are copied to the accelerator once, here. Results come back to the CPU in every call, as to an application;
    # in the difference of two files of a layer, whose results are equally large, that cancels out.
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for info in session.get_outputs():
        binding.bind_output(info.name)
    return lambda: session.run_with_iobinding(binding)


def numpy_type(name: str) -> Any:
    """`tensor(int64)` -> int64."""
    inner = name[len("tensor(") : -1]
    return np.dtype({"float16": "float16", "double": "float64", "bool": "bool"}.get(inner, inner))


def time_in_turns(runs: Sequence[Call], clock: Callable[[], float]) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of calls of each run just after another one, and of one call of a block, a value per round.

    Every other round is in reverse, so that a run does not always follow the same one. The run that a round begins with
    has just ended the one before, so its first call is none after another. Rounds end when all runs have shown their
    least time twice.
    """
    counts = [calls_per_block(run, clock) for run in runs]
    firsts: list[list[float]] = [[] for _ in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    start = clock()
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and (clock() - start > BUDGET or all(map(is_settled, seconds))):
            break
        order = range(len(runs)) if number % 2 == 0 else range(len(runs) - 1, -1, -1)
        for which in order:
            run, begin = runs[which], clock()
            run()
            middle = clock()
            for _ in range(counts[which]):
                run()
            if number == 0 or which != order[0]:
                firsts[which].append(middle - begin)
            seconds[which].append((clock() - middle) / counts[which])
    return firsts, seconds


def calls_per_block(run: Call, clock: Callable[[], float]) -> int:
    """The number of calls that fill a block; a first call warms up and does not count."""
    run()
    start, calls = clock(), 0
    while clock() - start < BLOCK:
        run()
        calls += 1
    return calls


def is_settled(seconds: Sequence[float]) -> bool:
    """Whether the least time was seen twice."""
    first, second = sorted(seconds)[:2]
    return second <= AGREE * first


class Progress:
    """Tells every few seconds how much is measured."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.start = self.last = time.monotonic()

    def count_one(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last >= PATIENCE and self.done < self.steps:
            self.last = now
            seconds = (now - self.start) * (self.steps / self.done - 1)
            say(f"{self.done} of {self.steps} groups of files measured, about {seconds:.0f} s left")


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
