"""The last screens of searches and comparisons: where the files are, and what to do next."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from models.task_config import TaskConfig
from search import api
from search.candidate import Candidate, Outcome, failed_outcome
from search.engine.prepare import prepare_run
from search.engine.running import run_prepared
from search.judge.evaluate import Evaluator
from search.recipe import Recipe
from search.report.outputs import Written, run_view
from search.settings.config import RunConfig
from search.terminal.console import PlainConsole
from search.terminal.show import show_run_end


@pytest.mark.parametrize(
    ("command", "choices"),
    [(api.search, {"strategy": "acra-uniform"}), (api.compare, {"methods": "l1", "strategies": "acra-uniform"})],
    ids=["search", "compare"],
)
def test_every_run_ends_with_its_files_and_how_to_go_on(tmp_path: Path, command: Any, choices: dict[str, str]) -> None:
    console = PlainConsole(file=io.StringIO(), width=200)
    result = command(
        "small", targets=0.5, train_images=100, epochs=0, workers=0, device="cpu", results=tmp_path, name="run",
        show=console, **choices,
    )  # fmt: skip
    assert isinstance(console.file, io.StringIO)
    shown = dict(line.split(maxsplit=1) for line in console.file.getvalue().splitlines() if len(line.split()) > 1)
    assert shown["look"] == f"open {result.folder}/report.html in a browser"
    assert shown["export"] == f"python run_search.py export {result.folder} --pick best --to {result.folder}/export"
    names = shown["files"].removeprefix(f"{result.folder}/: ").split(", ")
    written = {path.name for path in result.folder.iterdir() if path.is_file()}
    assert {*names, "run.json"} == written


@pytest.fixture
def _close_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """One site cannot be measured, the first candidate fails, and all finalists scatter alike."""

    def judge(self: Evaluator, candidate: Candidate, *rest: object) -> Outcome:
        outcome = measured(self, candidate, *rest)  # type: ignore[arg-type]
        if candidate.images is not None:
            return failed_outcome("no scan") if set(candidate.allocation or {}) == {"conv3"} else outcome
        if candidate.judge == "test":
            return outcome.model_copy(update={"metrics": {"accuracy": 0.4 + 0.1 * (candidate.seed % 2)}})
        searched.append(candidate.without_seed)
        return failed_outcome("no loss") if candidate.without_seed == searched[0] else outcome

    searched: list[Candidate] = []
    measured = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", judge)


def last_screen(folder: Path, **changes: Any) -> list[str]:
    """What a run on a few digits ends with, without a leaderboard."""
    config = RunConfig(
        task=TaskConfig(network="small", data="digits", train_images=100), name="run", results=str(folder),
        ledger=str(folder / "ledger.db"), workers=0, device="cpu", targets=("0.5",), finalists=2, final_seeds=2,
        strategies=("acra-uniform", "lagrangian"), trials=3, recipe=Recipe(epochs=0), final_epochs=0.0,
        scan_levels=1, scan_images=10, warm_start=False, **changes,
    )  # fmt: skip
    outcomes = run_prepared(prepare_run(config))
    console = PlainConsole(file=io.StringIO(), width=200)
    show_run_end(outcomes, Written(run_view(outcomes, {}), []), [], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.usefixtures("_close_race")
def test_searches_and_comparisons_end_with_the_same_remarks(tmp_path: Path) -> None:
    search = last_screen(tmp_path / "search")
    comparison = last_screen(tmp_path / "comparison", comparison=True)
    remarks = [line for line in search if line.startswith(("target 0.5: ", "failed: ")) or "of the scan" in line]
    assert "1 of 6 measurements of the scan failed, most often so: no scan" in remarks
    assert any("is inside the noise of lagrangian's " in line for line in remarks)
    assert any(line.startswith("failed: acra-uniform's ") and line.endswith(" at 0.5: no loss") for line in remarks)
    assert [line for line in comparison if line in remarks] == remarks


@pytest.mark.usefixtures("_close_race")
def test_candidates_of_several_methods_are_named_with_theirs(tmp_path: Path) -> None:
    lines = last_screen(tmp_path, comparison=True, methods=("l1", "l2"))
    (failure,) = (line for line in lines if line.startswith("failed: "))
    (rival,) = (line for line in lines if "inside the noise" in line)
    assert re.fullmatch(r"failed: acra-uniform's \w{8} \(l1\) at 0\.5: no loss", failure)
    assert len(re.findall(r"'s \w{8} \(l[12]\)", rival)) == 2
