"""The examples run as they stand, each in a folder of its own, and show what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import run_search

ROOT = Path(run_search.__file__).resolve().parent
# what each must print: figures that only a run that went through can have
SHOWN = {
    "own_network.py": [r"features\.0\.0\s+16", r"0\.25 +acra-\w+ +0\.2\d+", r"Net with [\d,]+ parameters"],
    "compare_methods.py": [r"kse +0\.7", r"l1 +0\.5", r"leaderboard|all\.html", r"\d+\.\d\d% at 0\.\d+ of the FLOPs"],
    "export.py": [r"torch\.export: largest difference \d\.\de-0[5-9]|difference 0\.0e\+00", r"model\.safetensors"],
    "detection.py": [
        r"mAP50 0\.[89]\d+ dense, 0\.[89]\d+ at 0\.49\d\d of the FLOPs",
        r"mAP50 .* by torch, .*model\.onnx",
    ],
    "segmentation.py": [r"mIoU [67]\d\.\d\d% at 0\.49\d\d of the FLOPs", r"[1-9] of 12 channels reach the head"],
    "super_resolution.py": [r"dense_PSNR +PSNR +std +delta_PSNR\n +1 ", r"dense_MAE +MAE +std +delta_MAE\n +1 "],
    "signals.py": [r"0\.5 +0\.49\d+ +0\.[789]\d+", r"test_MAE\n +0\.5 +0\.49\d+ +0\.[12]\d+"],
    "two_inputs.py": [r"0\.5 +acra-uniform +0\.49", r"answers \[(\d), (\d), (\d), (\d)\], right are"],
}
SHARED = {"digit_canvases.py", "trained_network.py"}  # what several examples import


def test_all_examples_are_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SHOWN) | SHARED


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_example(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for pattern in SHOWN[name]:
        assert re.search(pattern, done.stdout), (pattern, done.stdout)
    if judged := re.search(r"mAP50 (\S+) by torch, (\S+) by", done.stdout):  # 0.5 points apart at most
        assert float(judged[1]) == pytest.approx(float(judged[2]), abs=0.005)
