"""Tasks from files: what their function must return, and what it raises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.errors import UserError
from models.tasks.build import build_task, give_task, task_identity

SOUND = (
    "import torch\nfrom torch import nn\nfrom models.task import Task\n\n\n"
    "class Mean(Task):\n    metrics = 'error, lower is better'\n    example = torch.zeros(2, 3)\n\n"
    "    def __init__(self):\n        self.network = nn.Linear(3, 1)\n\n"
    "    def training_batches(self, epoch, seed):\n        return [torch.ones(4, 3)]\n\n"
    "    def loss(self, network, batch):\n        return network(batch).mean()\n\n"
    "    def score(self, network, split):\n        return {'error': 1.0}\n\n\n"
)


def written(folder: Path, body: str, name: str = "own.py") -> str:
    (folder / name).write_text(f"{SOUND}def build():\n    {body}\n")
    return f"{folder / name}:build"


def test_a_file_builds_a_new_task_each_time(tmp_path: Path) -> None:
    spec = written(tmp_path, "return Mean()")
    first, second = build_task(spec), build_task(spec)
    assert first is not second
    assert type(first).__name__ == "Mean"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "returned a NoneType; it must return a models.task.Task"),
        ("return Mean", "returned a ABCMeta; it must return a models.task.Task"),
        ("return Task()", "Can't instantiate abstract class Task"),
        ("raise RuntimeError('no weights at x.pt')", r"RuntimeError: no weights at x.pt \(line 24\)$"),
        ("task = Mean(); task.network = {}; return task", "the task's network is a dict"),
        ("task = Mean(); del task.network; return task", "the task has no network"),
        ("import sys; sys.exit(3)", "SystemExit"),
    ],
)
def test_other_functions_are_refused_in_one_sentence(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build_task(written(tmp_path, body))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_a_function_needs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 24\); it needs a GPU and there is none here"):
        build_task(written(tmp_path, "task = Mean(); task.network.cuda(); return task"))


def test_a_task_is_known_by_its_code_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first = task_identity(written(tmp_path, "return Mean()"))
    assert task_identity(written(tmp_path / "b", "return Mean()")) == first
    assert task_identity(written(tmp_path, "return Mean() ", "c.py")) != first


def test_what_is_no_task_is_not_taken() -> None:
    with pytest.raises(UserError, match="task of type int is not understood"):
        give_task(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="task Lost was given as a Python object, which no file holds"):
        build_task("object:Lost@0123456789ab")
