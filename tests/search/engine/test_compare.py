"""Comparisons on real digits, small enough to be quick: what is run, what is not run twice, and what can be checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch

import run_search
from methods.registry import methods
from models.errors import UserError
from models.task_config import TaskConfig
from search import api
from search.carry_out import carry_out
from search.engine.candidate_queue import CandidateQueue
from search.engine.method_configs import method_configs, strategies_of
from search.engine.prepare import prepare_run
from search.engine.run_folder import resumed_config
from search.engine.running import run_prepared
from search.engine.standings import DENSE, read_dense, read_standings
from search.leaderboard.board import read_boards
from search.ledger.ledger import Ledger
from search.observer import Observer
from search.recipe import Recipe
from search.results.tables import table_records
from search.settings.commands import COMPARE, COMPARE_FIXED
from search.settings.config import RunConfig
from search.settings.new_config import new_run_config
from search.settings.setting import read_settings

TASK = TaskConfig(network="small", data="digits", train_images=160, search_fraction=0.25)
RECIPE = Recipe(epochs=0.5, batch_size=32, recalibration_images=32)


def config(results: Path, **changes: Any) -> RunConfig:
    given = {"methods": "l1,kse", "strategies": "acra-uniform,acra-sensitivity", "options": [],
             "targets": "0.5,0.05", "seeds": 2, **RECIPE.model_dump(), "final_epochs": 0.5, "scan_levels": 1,
             "scan_images": 40, "workers": 0, "device": "cpu", "results": str(results), "name": "cmp"}  # fmt: skip
    return new_run_config(COMPARE, read_settings(COMPARE, given | changes), TASK, **COMPARE_FIXED)


def records_of(results: Path) -> list[Any]:
    with Ledger(str(results / "ledger.db"), fingerprint(results), "t") as ledger:
        return ledger.records()


def fingerprint(results: Path) -> str:
    return str(json.loads((results / "cmp" / "run.json").read_text())["fingerprint"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two methods, two strategies, two targets, of which KSE can reach one."""
    results = tmp_path_factory.mktemp("results")
    compared = carry_out(config(results), Observer())
    assert compared.complete
    return results, dict(compared.record)


def test_every_method_strategy_and_target_has_its_row(finished: tuple[Path, dict[str, Any]]) -> None:
    rows = finished[1]["tasks"][0]["rows"]
    asked = {(line["method"], line["strategy"], line["target"]): line for line in rows}
    assert set(asked) == {(method, strategy, target) for method in ("l1", "kse")
                          for strategy in ("acra-uniform", "acra-sensitivity")
                          for target in ("0.5", "0.05")}  # fmt: skip
    for (method, _, target), line in asked.items():
        if (method, target) == ("kse", "0.05"):
            assert "out of reach" in line["note"]
            assert line["accuracy"] is None
        else:
            assert line["n"] == 2
            assert 0 < line["kept_flops"] <= line["kept_asked"]


def test_search_cost_is_what_the_ledger_says(finished: tuple[Path, dict[str, Any]]) -> None:
    results, record = finished
    known = records_of(results)
    for line in record["tasks"][0]["rows"]:
        if line["accuracy"] is None:
            continue
        scans = [r for r in known if r.candidate.images is not None and r.candidate.method == line["method"]]
        expected = 1 + (len(scans) if line["strategy"] == "acra-sensitivity" else 0)
        assert line["searched"] == expected
        assert scans


def test_the_test_set_is_met_by_each_choice_once_a_seed(finished: tuple[Path, dict[str, Any]]) -> None:
    results, record = finished
    rows = [line for line in record["tasks"][0]["rows"] if line["accuracy"] is not None]
    tested = [r for r in records_of(results) if r.candidate.judge == "test"]
    allocations = {(r.candidate.method, r.candidate.allocation) for r in tested}
    assert len(tested) == 2 * len(allocations)  # two strategies may choose the same: it is paid for once
    assert len(allocations) <= len(rows)


def test_again_runs_nothing_and_shows_the_same(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, record = finished
    monkeypatch.setattr("search.judge.evaluate.Evaluator.__call__", lambda *_, **__: pytest.fail("judged again"))
    again = carry_out(resumed_config(results / "cmp"), Observer())
    assert again.complete
    assert again.record["tasks"] == record["tasks"]


def test_only_what_is_new_is_run(finished: tuple[Path, dict[str, Any]]) -> None:
    results, _ = finished
    before = {r.key for r in records_of(results)}
    given = config(results, methods="l1,fpgm", strategies="acra-uniform", targets="0.5", seeds=3, name="more")
    carry_out(given, Observer())
    new = [r.candidate for r in records_of(results) if r.key not in before]
    assert sorted((c.method, c.judge, c.seed) for c in new) == [
        ("fpgm", "search", 0), *(("fpgm", "test", seed) for seed in range(3)), ("l1", "test", 2)]  # fmt: skip


def test_a_stopped_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path, methods="l1,fpgm", strategies="acra-uniform", targets="0.5", seeds=2)
    judge, calls = CandidateQueue.tell, [0]

    def killed(self: Any, *args: Any) -> None:
        judge(self, *args)
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CandidateQueue, "tell", killed)
        stopped = carry_out(given, Observer())
    assert not stopped.complete
    done = {r.key for r in records_of(tmp_path)}
    assert len(done) == 3
    resumed = carry_out(resumed_config(tmp_path / "cmp"), Observer())
    assert resumed.complete
    assert done < {r.key for r in records_of(tmp_path)}
    assert len(records_of(tmp_path)) == 2 * (1 + 2)
    assert [line["n"] for line in resumed.record["tasks"][0]["rows"]] == [2, 2]


def test_dense_figures_are_in_the_ledger(finished: tuple[Path, dict[str, Any]]) -> None:
    results, record = finished
    with Ledger(str(results / "ledger.db"), fingerprint(results), "t") as ledger:
        dense = read_dense(ledger)
        assert ledger.facts(DENSE)
    assert dense is not None
    assert record["tasks"][0]["dense"]["test_accuracy"] == dense.test_score
    run = json.loads((results / "cmp" / "run.json").read_text())
    assert run["dense"]["flops"] == dense.flops


def test_tables_of_a_comparison_cover_all_methods(finished: tuple[Path, dict[str, Any]]) -> None:
    results, _ = finished
    for name in ("candidates.csv", "finalists.csv", "leaderboard.csv"):
        assert set(pd.read_csv(results / "cmp" / name)["method"]) == {"l1", "kse"}
    assert "<table" in (results / "cmp" / "leaderboard.html").read_text()


def test_a_search_leaves_its_row_as_well(finished: tuple[Path, dict[str, Any]]) -> None:
    results, _ = finished
    changes = {"comparison": False, "warm_start": True}
    alone = config(results, methods="l1", targets="0.5", name="alone").model_copy(update=changes)
    (result,) = run_prepared(prepare_run(alone)).methods
    finals = {proposal.strategy for proposal, _ in result.seen if proposal.stage == "final"}
    with Ledger(str(results / "ledger.db"), fingerprint(results), "t") as ledger:
        (standing,) = [each for each in read_standings(ledger) if each.run == "alone"]
    assert {standing.strategy} == finals
    line = next(line for line in rows_of(results) if line["row"] == standing.row)
    assert line["run"] == "alone"
    assert "--target-flops 0.5 " in line["command"]
    assert f"--strategy {standing.strategy} " in line["command"]


# ---- verify


def rows_of(results: Path) -> list[dict[str, Any]]:
    (board,) = read_boards(str(results / "ledger.db"), [fingerprint(results)], results)
    return table_records(board.frame)


def verified(results: Path, row: str) -> tuple[dict[str, Any], bool]:
    verified_row = api.verify(row, results=results, device="cpu", show=False)
    return dict(verified_row.record), verified_row.holds


@pytest.mark.parametrize("method", ["l1", "kse"])
def test_stored_weights_give_the_figure_to_the_last_image(finished: tuple[Path, dict[str, Any]], method: str) -> None:
    results, _ = finished
    line = next(line for line in rows_of(results) if line["method"] == method and line["n"] == 2)
    record, holds = verified(results, line["row"])
    assert holds
    assert [seed["seed"] for seed in record["seeds"]] == [0, 1]
    mean = sum(seed["found"] / seed["images"] for seed in record["seeds"]) / 2
    assert mean == pytest.approx(line["score"], abs=1e-9)


def test_changed_weights_do_not_hold_and_missing_ones_are_named(finished: tuple[Path, dict[str, Any]]) -> None:
    results, _ = finished
    line = next(line for line in rows_of(results) if line["method"] == "l1" and line["n"] == 2)
    known = [r for r in records_of(results) if r.candidate.judge == "test" and r.candidate.method == "l1"]
    paths = [path for record in known for path in results.glob(f"*/weights/{record.key}.safetensors")]
    assert len(paths) >= 2
    originals = {path: path.read_bytes() for path in paths}
    try:
        for path in paths:
            tensors = safetensors.torch.load_file(path)
            others = {name: tensor.roll(1, 0) if tensor.dim() else tensor for name, tensor in tensors.items()}
            safetensors.torch.save_file(others, path)
        record, holds = verified(results, line["row"])
        assert not holds
        assert record["seeds"][0]["found"] != record["seeds"][0]["recorded"]
        for path in paths:
            path.write_bytes(originals[path][:100])
        with pytest.raises(UserError, match="does not hold the finalist's weights"):
            verified(results, line["row"])
        for path in paths:
            path.unlink()
        with pytest.raises(UserError, match="are in no run below"):
            verified(results, line["row"])
    finally:
        for path, content in originals.items():
            path.write_bytes(content)


def test_rows_that_cannot_be_verified_are_named(finished: tuple[Path, dict[str, Any]]) -> None:
    results, _ = finished
    refused = next(line for line in rows_of(results) if line["note"] and "reach" in str(line["note"]))
    with pytest.raises(UserError, match=r"has no figure to verify: target '0\.05'"):
        verified(results, refused["row"])
    with pytest.raises(UserError, match="unknown row 'zzzz'"):
        verified(results, "zzzz")


# ---- configurations and the command line


def test_a_method_that_learns_its_allocation_does_so() -> None:
    learner = next(name for name, info in methods().items() if info.learns_allocation)
    fields = {"task": TASK, "name": "x", "methods": ("l1", learner), "comparison": True}
    for asked, of_l1, of_learner in (
        (("acra-uniform", "lagrangian"), ("acra-uniform", "lagrangian"), ("learned",)),
        (("acra-uniform", "learned"), ("acra-uniform",), ("acra-uniform", "learned")),
        (("learned",), (), ("learned",)),
    ):
        made = RunConfig(strategies=asked, **fields)
        assert [strategies_of(made, method) for method in ("l1", learner)] == [of_l1, of_learner]
        parts = method_configs(made)
        assert [strategies_of(part, part.method) for part in parts] == [of_l1, of_learner]
    for heeded in ({"constraints": {"keep_dense": ("conv1",)}}, {"targets": ("params 0.5",)}):
        assert strategies_of(RunConfig(strategies=("tpe",), **fields, **heeded), learner) == ("tpe",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"methods": "l1,kze"}, "unknown method 'kze'; did you mean kse?"), ({"methods": " ,"}, "names nothing"),
     ({"strategies": "acra"}, "unknown strategy 'acra'"), ({"targets": "fast"}, "target 'fast'"),
     ({"options": ["alpha=2"]}, "is not METHOD.NAME=VALUE"), ({"options": ["ksee.alpha=2"]}, "did you mean kse?"),
     ({"options": ["kse.beta=2"]}, "unknown option of kse 'beta'")],
)  # fmt: skip
def test_mistakes_are_one_sentence(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        config(tmp_path, **changes)
    assert words in str(caught.value)


def test_options_go_to_their_method_alone(tmp_path: Path) -> None:
    made = config(tmp_path, options=["kse.alpha=2"])
    assert {part.method: part.method_options for part in method_configs(made)} == {"l1": {}, "kse": {"alpha": 2}}


def test_nothing_within_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out of reach"):
        prepare_run(config(tmp_path, methods="kse", targets="0.01"))


def test_a_comparison_without_a_strategy_that_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to compare: l1, kse cannot learn an allocation; name a strategy"):
        prepare_run(config(tmp_path, strategies="learned"))


def test_the_command_line_shows_verifies_and_refuses(finished: tuple[Path, dict[str, Any]]) -> None:
    results, _ = finished

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "run_search.py", "leaderboard", "--results", str(results), *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=280, cwd=Path(run_search.__file__).parent)

    assert json.loads(call("--format", "json").stdout)["tasks"][0]["title"] == "small on digits"
    done = call("--format", "xml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--format 'xml'" in done.stderr
