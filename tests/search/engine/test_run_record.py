"""Records of earlier versions, as these wrote them, are read as what they meant."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from models.settings import naming_flags
from search.engine.method_configs import method_configs
from search.engine.run_folder import refuse_other_run, resumed_config
from search.engine.run_record import read_config
from search.recipe import Recipe

OLD_RUNS = Path(__file__).parent / "old_runs"


def old_run(folder: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """A record of schema 1 in `folder`, its configuration changed where that is asked for."""
    record = json.loads((OLD_RUNS / f"{kind}.json").read_text())
    record["config"] |= changes
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    return record  # type: ignore[no-any-return]


def test_a_search_of_schema_1(tmp_path: Path) -> None:
    old_run(tmp_path / "run", "search")
    config = read_config(tmp_path / "run")
    assert (config.methods, config.options) == (("kse",), {"kse": {"alpha": 2}})
    assert (config.strategies, config.comparison, config.warm_start) == (("acra-uniform", "random"), False, True)
    assert ([target.asked for target in config.targets], config.trials, config.final_epochs) == (["0.7"], 2, 0.5)
    assert config.recipe == Recipe(epochs=0.5, lr=0.01, batch_size=32, recalibration_images=32, distill_features=0)
    assert (config.folder, config.ledger) == (tmp_path / "run", "/home/user/results/ledger.db")
    assert method_configs(config) == [config]


def test_a_comparison_of_schema_1(tmp_path: Path) -> None:
    record = old_run(tmp_path / "run", "compare")
    config = read_config(tmp_path / "run")
    assert (config.methods, config.options) == (("l1", "kse", "resrep"), {"kse": {"alpha": 2}})
    assert (config.strategies, config.comparison, config.warm_start) == (("acra-uniform",), True, False)
    of_methods = [(part.method, part.method_options, list(part.strategies)) for part in method_configs(config)]
    assert of_methods == [
        (search["method"], search["options"], search["strategies"]) for search in record["config"]["searches"]
    ]


@pytest.mark.parametrize(
    "strategies",
    [
        {"l1": ["tpe"], "resrep": ["tpe", "learned"]},
        {"l1": ["tpe", "random"], "resrep": ["learned"]},
        {"l1": [], "resrep": ["learned"]},
        {"resrep": ["learned"]},
    ],
)
def test_the_strategies_of_each_method_are_those_it_had(tmp_path: Path, strategies: dict[str, list[str]]) -> None:
    (search,) = json.loads((OLD_RUNS / "compare.json").read_text())["config"]["searches"][:1]
    searches = [{**search, "method": method, "strategies": names} for method, names in strategies.items()]
    old_run(tmp_path / "run", "compare", searches=searches)
    assert {part.method: list(part.strategies) for part in method_configs(read_config(tmp_path / "run"))} == strategies


@pytest.mark.parametrize("kind", ["search", "compare"])
def test_a_folder_of_schema_1_is_still_that_run(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "elsewhere"
    old_run(folder, kind)
    config = resumed_config(folder)
    refuse_other_run(folder, config)
    other = config.model_copy(update={"trials": 3})
    for naming, advice in ((nullcontext, "resume"), (naming_flags, "--resume")):
        with naming(), pytest.raises(UserError, match=f"a run with other settings.* that one by {advice} {folder}$"):
            refuse_other_run(folder, other)
    with pytest.raises(UserError, match="holds a run with other settings"):
        refuse_other_run(folder, config.model_copy(update={"comparison": not config.comparison}))
