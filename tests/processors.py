"""Scripts run in a process of their own, so that a crash is a failed test, on this processor and as if on another."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = (None, "AVX2")  # the widest that oneDNN may use; None: what the processor has


def run_script(script: Path, *arguments: str, instructions: str | None, timeout: float = 280) -> list[str]:
    """The lines that a script printed; AssertionError with the last of them if it crashed."""
    # Threads that wait actively make everything ten times slower on a machine that is busy besides.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    if instructions is not None:
        environment["ONEDNN_MAX_CPU_ISA"] = instructions
    command = [sys.executable, str(script), *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    lines = run.stdout.splitlines()
    assert run.returncode == 0, f"exit status {run.returncode} after {lines[-1:]}: {run.stderr[-500:]}"
    return lines


def wrong_cases(lines: list[str]) -> list[tuple[str, str]]:
    """Every line that says what is wrong, with the line before it."""
    return [pair for pair in itertools.pairwise(lines) if pair[1].startswith("wrong")]
