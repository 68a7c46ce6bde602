"""Users' tasks travel to Ray's workers: by the file that builds them, or as objects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import denoising
import pandas as pd
import pytest

from search import api
from search.api_objects import RunResult

SETTINGS = {"targets": [0.6, 0.4], "strategy": "acra-uniform", "epochs": 1, "final_seeds": 2, "seed": 0, "show": False}


def search(results: Path, task: object, workers: int) -> RunResult:
    return api.search(task=task, workers=workers, results=results, **SETTINGS)


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["file", "object"])
def test_workers_judge_as_this_process_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies where no worker looks for modules; the object's loss is a lambda, its network a module's class."""
    task: object
    if kind == "file":
        (tmp_path / "elsewhere").mkdir()
        shutil.copy(denoising.__file__, tmp_path / "elsewhere" / "own.py")
        task = f"{tmp_path / 'elsewhere' / 'own.py'}:build_with_outputs"
    else:
        monkeypatch.setenv("PYTHONPATH", str(Path(denoising.__file__).parent), prepend=os.pathsep)
        scale = 1.5
        task = denoising.build(loss=lambda network, batch: scale * denoising.loss(network, batch))
    on_ray, here = (search(tmp_path / f"{workers}", task, workers) for workers in (2, 0))
    columns = ["allocation", "stage", "seed", "status", "MAE", "PSNR", "drift", "test_MAE", "flops"]
    tables = [run.table[columns].sort_values(columns[:3], ignore_index=True) for run in (on_ray, here)]
    pd.testing.assert_frame_equal(*tables)
    assert (tables[0]["status"] == "ok").all()
    assert tables[0].loc[tables[0]["stage"] == "search", "drift"].notna().all() == (kind == "file")
