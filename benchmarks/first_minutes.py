"""What a newcomer waits for: lists and plans, as multiples of the time that importing torch takes.

    python benchmarks/first_minutes.py [rounds]

Every round runs each command once, in turns with `python -c "import torch"`, so that whatever else keeps the machine
busy slows both. Markdown: the median and the quartiles of the seconds, and of the ratios within a round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

IMPORT = ("-c", "import torch")
COMMANDS = (
    ("run_search.py", "--help"),
    ("run_search.py", "methods"),
    ("run_search.py", "strategies"),
    ("run_search.py", "networks"),
    ("run_search.py", "plan", "--network", "resnet20"),
    ("run_search.py", "plan", "--network", "resnet50"),
)
Arguments = tuple[str, ...]


def time_command(arguments: Arguments, folder: Path) -> tuple[float, float]:
    """Seconds on the clock, and of processors, of one process with a results folder of its own."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *(str(ROOT / word) if word == "run_search.py" else word for word in arguments)],
        cwd=folder, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    seconds, after = time.perf_counter() - start, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def quartiles_text(values: list[float]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} ({low:.2f} – {high:.2f})"


def main(rounds: int) -> None:
    seconds: dict[Arguments, list[float]] = {arguments: [] for arguments in (IMPORT, *COMMANDS)}
    processor_seconds: dict[Arguments, list[float]] = {arguments: [] for arguments in seconds}
    with tempfile.TemporaryDirectory() as folder:
        for arguments in seconds:  # once beforehand, so that all files are in memory
            time_command(arguments, Path(folder))
        for _ in range(rounds):
            for arguments in seconds:
                on_clock, of_processors = time_command(arguments, Path(folder))
                seconds[arguments].append(on_clock)
                processor_seconds[arguments].append(of_processors)
    print(f"n = {rounds} rounds; median (quartiles)\n")
    print("| command | seconds | ÷ `import torch` | processor seconds | ÷ `import torch` |")
    print("| --- | --- | --- | --- | --- |")
    for arguments in seconds:
        name = 'python -c "import torch"' if arguments == IMPORT else " ".join(arguments).replace("run_search.py ", "")
        columns = []
        for measured in (seconds, processor_seconds):
            ratios = [time / torch_time for time, torch_time in zip(measured[arguments], measured[IMPORT], strict=True)]
            columns += [quartiles_text(measured[arguments]), quartiles_text(ratios)]
        print(f"| `{name}` | {' | '.join(columns)} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
