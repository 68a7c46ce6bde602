"""Runs of a task that Python code gave as an object: their names, and how another process goes on with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from models.errors import UserError
from models.task import Task
from search import api
from search.api_objects import RunResult


class Doubler(nn.Sequential):
    def __init__(self, width: int = 8) -> None:
        super().__init__(nn.Conv1d(1, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, 1, 3, padding=1))


def doubling_loss(network: nn.Module, batch: list[Tensor]) -> Tensor:
    return functional.mse_loss(network(batch[0]), 2 * batch[0])


def doubling_task(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    signals = torch.randn(24, 1, 16, generator=torch.Generator().manual_seed(1))
    loaders = [DataLoader(TensorDataset(signals[start : start + 8]), 4) for start in (0, 8, 16)]
    return Task.from_loaders(
        Doubler(),
        *loaders,
        loss=doubling_loss,
        score=lambda network, batches: {"error": sum(float(doubling_loss(network, batch)) for batch in batches)},
        metrics="error, lower is better",
        example=torch.zeros(2, 1, 16),
    )


def search_briefly(results: Path) -> RunResult:
    return api.search(task=doubling_task(), targets=0.5, strategy="acra-uniform", epochs=1, final_seeds=1, workers=0,
                      results=results, show=False)  # fmt: skip


def test_a_run_is_called_after_the_network_and_tells_how_to_go_on(tmp_path: Path) -> None:
    result = search_briefly(tmp_path)
    assert result.folder.name.startswith("Doubler-l1-")
    assert result.resume_command == f"api.search(task=task, resume={str(result.folder)!r})"
    assert result.metric.name == "error"
    assert result.metric.lower_is_better


def test_another_process_goes_on_once_it_is_given_the_task(tmp_path: Path) -> None:
    folder = search_briefly(tmp_path).folder
    script = (
        "import sys; sys.path.insert(0, {here!r})\n"
        "from test_given_tasks import doubling_task\n"
        "from search import api\n"
        "try:\n    api.search(resume={folder!r}, show=False)\n"
        "except ValueError as error:\n    print(error)\n"
        "result = {call}\n"
        "print(len(result.finalists), result.metric)\n"
    )
    call = f"api.search(task=doubling_task(), resume={str(folder)!r}, show=False)"
    text = script.format(here=str(Path(__file__).parent), folder=str(folder), call=call)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Doubler was given as a Python object, which no file holds" in done.stdout
    assert "1 error, lower is better" in done.stdout


def test_a_task_is_trained_and_searched_with_the_weights(tmp_path: Path) -> None:
    task, folder = doubling_task(), tmp_path / "results"
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    trained = api.train(task=task, out=tmp_path / "w.safetensors", epochs=20, results=folder, show=False)
    with torch.no_grad():
        expected = task.score(trained.network(), "search")["error"]
        assert expected < task.score(task.network, "search")["error"]
    assert trained.scores["search"] == pytest.approx(expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.network.state_dict().items())

    result = api.search(task=task, weights=trained.weights, targets=0.5, strategy="acra-uniform", epochs=0,
                        final_epochs=0, workers=0, results=folder, show=False)  # fmt: skip
    assert result.leaderboard.dense_error.tolist() == pytest.approx([trained.scores["test"]])


def test_another_task_is_refused(tmp_path: Path) -> None:
    folder = search_briefly(tmp_path).folder
    for function in (lambda task: api.search(task=task, resume=folder), lambda task: api.open_run(folder, task=task)):
        with pytest.raises(UserError, match=r"the task given \(Doubler\) is not the run's"):
            function(doubling_task(seed=1))


@pytest.mark.parametrize("given", [3, Task])
def test_what_is_no_task_is_named(given: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task (of type int|that is the class Task) is not understood; give a "):
        api.plan(task=given, results=tmp_path, targets=0.5)  # type: ignore[arg-type]
