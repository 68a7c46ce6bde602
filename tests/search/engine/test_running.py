"""Whose folder it is, and what a run says of what it could not do."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from models.errors import UserError
from models.task_config import TaskConfig
from search import api
from search.candidate import Outcome, failed_outcome
from search.engine.observer import RunObserver
from search.engine.prepare import PreparedRun, prepare_run
from search.engine.run_folder import claim_run_folder, resumed_config
from search.engine.running import run_prepared
from search.judge.evaluate import Evaluator
from search.recipe import Recipe
from search.report.outputs import run_view
from search.report.page import report_html
from search.settings.command import run_command
from search.settings.config import RunConfig
from search.strategies.contract import Proposal

TASK = TaskConfig(network="small", data="digits", train_images=200)


def config_of(folder: Path, **changes: object) -> RunConfig:
    fields = {"targets": ("0.5",), "strategies": ("acra-uniform", "lagrangian"), "scan_levels": 2, "scan_images": 10,
              "recipe": Recipe(epochs=0.1), "workers": 0, "finalists": 0, "device": "cpu"}  # fmt: skip
    return RunConfig(task=TASK, name="run", results=str(folder), ledger=str(folder / "ledger.db"), **fields | changes)


def test_a_folder_belongs_to_one_search_at_a_time(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with (
        claim_run_folder(config.folder, config),
        pytest.raises(UserError, match=r"a search is running in .*name"),
        claim_run_folder(config.folder, config),
    ):
        pass
    with claim_run_folder(config.folder, config):
        pass  # free again


def test_measurements_that_failed_are_told_and_cost_the_site_its_charm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Evaluator.__call__

    def breaks(self: Evaluator, candidate: object, *rest: object) -> Outcome:
        allocation = candidate.allocation  # type: ignore[attr-defined]
        if candidate.images is not None and set(allocation) == {"conv3"}:  # type: ignore[attr-defined]
            return failed_outcome("<b>its outputs are not finite</b>")
        return measured(self, candidate, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "__call__", breaks)
    outcomes = run_prepared(prepare_run(config_of(tmp_path, trials=1)))
    (result,) = outcomes.methods
    view = run_view(outcomes, {})
    remark = next(each for each in view.remarks if "scan" in each)
    assert remark.startswith("2 of ")
    assert remark.endswith("measurements of the scan failed, most often so: <b>its outputs are not finite</b>")
    page = report_html(view)
    assert "&lt;b&gt;its outputs are not finite&lt;/b&gt;" in page
    assert remark not in page
    (lagrangian,) = [proposal.candidate for proposal, _ in result.seen
                     if proposal.strategy == "lagrangian" and proposal.stage == "search"]  # fmt: skip
    (uniform,) = [proposal.candidate for proposal, _ in result.seen if proposal.strategy == "acra-uniform"]
    kept = [float(each.allocation.get("conv3", {"ratio": 0.0})["ratio"]) for each in (lagrangian, uniform)]
    assert kept[0] < kept[1], "conv3 breaks as soon as it is touched: it is spared"
    assert view.export_command.count("--pick knee") == 1


class Beginnings(RunObserver):
    """The keys of known candidates that each run began with."""

    def __init__(self) -> None:
        self.keys: list[list[str]] = []
        self.judged_anew = 0

    def on_warm_start(self, run: PreparedRun) -> None:
        self.keys.append([known.key for method in run.methods for known in method.problem.known_candidates])

    def on_outcome(self, proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        self.judged_anew += not from_ledger


def test_a_resumed_run_begins_with_what_it_began_with_though_the_ledger_has_grown(tmp_path: Path) -> None:
    config = config_of(tmp_path, strategies=("tpe",), trials=3, recipe=Recipe(epochs=0))
    others = [config.model_copy(update={"name": name, "strategies": ("random",), "trials": trials})
              for name, trials in (("before", 2), ("between", 6))]  # fmt: skip
    observer = Beginnings()
    run_prepared(prepare_run(others[0]))
    run_prepared(prepare_run(config), observer)
    run_prepared(prepare_run(others[1]))
    observer.judged_anew = 0
    run_prepared(prepare_run(resumed_config(config.folder)), observer)
    began, resumed = observer.keys
    assert began
    assert resumed == began
    assert observer.judged_anew == 0
    run_prepared(prepare_run(config.model_copy(update={"name": "after"})), observer)
    assert set(began) < set(observer.keys[-1]), "the ledger has grown by candidates near the target"


@pytest.mark.parametrize("comparison", [False, True])
def test_searches_and_comparisons_leave_the_same_files_and_resume_by_either_call(
    tmp_path: Path, comparison: bool
) -> None:
    changes = {"comparison": comparison, "strategies": ("acra-uniform",), "recipe": Recipe(epochs=0), "finalists": 1,
               "final_seeds": 2, "final_epochs": 0.0}  # fmt: skip
    config = config_of(tmp_path, **changes)
    first = api.run_config(config, show=False)
    files = {"candidates.csv", "finalists.csv", "pareto.csv", "pareto.png", "report.html", "leaderboard.csv",
             "leaderboard.html", "run.json", "weights"}  # fmt: skip
    assert {path.name for path in config.folder.iterdir()} == files
    record = json.loads((config.folder / "run.json").read_text()) | {"created": "2020-01-31T12:00:00+0000"}
    (config.folder / "run.json").write_text(json.dumps(record))
    for resume in (api.search, api.compare):
        again = resume(resume=config.folder, show=False)
        assert again.complete
        assert again.config == first.config == config
        assert again.finalists.equals(first.finalists)
        commands = html.unescape((config.folder / "report.html").read_text())
        assert run_command(config) in commands, "not the command that resumed it"
    assert json.loads((config.folder / "run.json").read_text())["created"] == record["created"]


def test_the_report_of_a_comparison_names_every_method_and_what_was_left_out(tmp_path: Path) -> None:
    config = config_of(
        tmp_path, comparison=True, methods=("l1", "kse"), strategies=("acra-uniform",), targets=("0.5", "0.05"),
        recipe=Recipe(epochs=0), finalists=1, final_seeds=1, final_epochs=0.0,
    )  # fmt: skip
    outcomes = run_prepared(prepare_run(config))
    view = run_view(outcomes, {})
    assert [target for target, _ in view.targets] == ["0.5", "0.05"]
    assert set(view.tables.candidates["method"]) == {"l1", "kse"}
    assert set(view.allocations) == set(view.tables.candidates["candidate"])
    assert any(remark.startswith("left out: kse at 0.05, ") for remark in view.remarks)
    assert "Left out: kse at 0.05, " in report_html(view)
