"""Whose folder it is, and what a run says of what it could not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import UserError
from models.task import TaskConfig
from search.candidate import Outcome, Recipe, failed
from search.engine.prepare import prepare_run
from search.engine.run_folder import alone_in
from search.engine.running import run_prepared
from search.judge.evaluate import Evaluator
from search.report.outputs import run_view
from search.report.page import report_html
from search.settings.config import RunConfig

TASK = TaskConfig(network="small", data="digits", train_images=200)


def config_of(folder: Path, **changes: object) -> RunConfig:
    fields = {"targets": ("0.5",), "strategies": ("acra-uniform", "lagrangian"), "scan_levels": 2, "scan_images": 10,
              "recipe": Recipe(epochs=0.1), "workers": 0, "finalists": 0, "device": "cpu"}  # fmt: skip
    return RunConfig(task=TASK, name="run", results=str(folder), ledger=str(folder / "ledger.db"), **fields | changes)


def test_a_folder_belongs_to_one_search_at_a_time(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with (
        alone_in(config.folder, config),
        pytest.raises(UserError, match=r"a search is running in .*--name"),
        alone_in(config.folder, config),
    ):
        pass
    with alone_in(config.folder, config):
        pass  # free again


def test_measurements_that_failed_are_told_and_cost_the_site_its_charm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Evaluator.__call__

    def breaks(self: Evaluator, candidate: object, *rest: object) -> Outcome:
        allocation = candidate.allocation  # type: ignore[attr-defined]
        if candidate.images is not None and set(allocation) == {"conv3"}:  # type: ignore[attr-defined]
            return failed("<b>its outputs are not finite</b>")
        return measured(self, candidate, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "__call__", breaks)
    outcomes = run_prepared(prepare_run(config_of(tmp_path, trials=1)))
    (result,) = outcomes.methods
    view = run_view(outcomes, "the command", {})
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
