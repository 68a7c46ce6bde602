"""How much there is to do, before it is done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from models.task_config import TaskConfig
from search.engine.estimate import expected_candidates
from search.engine.prepare import prepare_run
from search.engine.running import run_prepared
from search.recipe import Recipe
from search.settings.config import RunConfig

STRATEGIES = ("acra-uniform", "lagrangian", "random")


@pytest.mark.parametrize(("trials", "candidates"), [(1, 3), (3, 7), (8, 16)])
def test_no_more_is_done_than_was_expected(tmp_path: Path, trials: int, candidates: int) -> None:
    """Of each target one for the uniform strategy, up to seven for `lagrangian`, and all trials for `random`."""
    config = RunConfig(
        task=TaskConfig(network="small", data="digits", train_images=100), name="run", results=str(tmp_path),
        ledger=str(tmp_path / "ledger.db"), targets=("0.6", "0.4"), strategies=STRATEGIES, scan_levels=2,
        scan_images=10, recipe=Recipe(epochs=0.0), final_epochs=0.1, workers=0, finalists=1, final_seeds=2,
        trials=trials, device="cpu",
    )  # fmt: skip
    run = prepare_run(config)
    planned = expected_candidates(run)
    assert planned["search"] == 2 * candidates
    (result,) = run_prepared(run).methods
    done = Counter(stage for stage, _ in {(pair[0].stage, pair[0].candidate.key("")) for pair in result.seen})
    assert done["scan"] == planned["scan"] == 1 + 2 * len(run.methods[0].problem.sites)
    assert done["final"] == planned["final"] == 4
    assert done["search"] <= planned["search"]
    for name in STRATEGIES:
        own = Counter(str(p.target) for p, _ in result.seen if (p.strategy, p.stage) == (name, "search"))
        most = {"acra-uniform": 1, "lagrangian": min(trials, 7), "random": trials}[name]
        assert set(own) == {"0.6", "0.4"}
        assert max(own.values()) <= most


def test_predicted_damages_leave_nothing_to_scan(tmp_path: Path) -> None:
    def expected_scan(method: str, strategy: str) -> int:
        config = RunConfig(
            task=TaskConfig(network="small", data="digits", train_images=100), name="run", results=str(tmp_path),
            ledger=str(tmp_path / "ledger.db"), targets=("0.6",), methods=(method,), strategies=(strategy,),
            scan_levels=2, workers=0, device="cpu",
        )  # fmt: skip
        return expected_candidates(prepare_run(config))["scan"]

    assert expected_scan("l1", "lagrangian") > 0
    assert expected_scan("tucker", "lagrangian") == 0
    assert expected_scan("obs+tucker", "lagrangian") == 3  # dense, and either method alone
    assert expected_scan("tucker", "acra-sensitivity") > 0
