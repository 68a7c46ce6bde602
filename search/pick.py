"""A finished run read from its folder, and one of its candidates picked for export."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from models.errors import UserError, first_line, unknown
from search.build import resumed
from search.candidate import Candidate, Recipe
from search.config import SearchConfig
from search.tables import CANDIDATE_TYPES, FINAL_TYPES, records

PICKS = ("best", "knee", "smallest")
Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run left in its folder."""

    config: SearchConfig
    fingerprint: str
    host: dict[str, str]
    candidates: pd.DataFrame
    front: pd.DataFrame
    finals: pd.DataFrame

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def searched(self) -> int:
        return int((self.candidates["stage"] == "search").sum())


@dataclass(frozen=True)
class Picked:
    """The candidate to export: what it is, and the test results known of it."""

    candidate: Candidate
    key: str
    strategy: str
    target: str
    tested: dict[int, float]
    """Seed -> test accuracy of the same finalist."""


def read_run(run: str | Path) -> Run:
    """A run from its folder, or from its name below `results`.

    Raises:
        UserError: there is none (nearest names), or it is not whole.
    """
    folder = Path(run)
    if not (folder / "run.json").is_file() and len(folder.parts) == 1:
        folder = Path("results") / folder
    config = resumed(folder)
    record = json.loads((folder / "run.json").read_text())
    if not isinstance(record.get("fingerprint"), str):
        raise UserError(f"{folder / 'run.json'} names no task; start the search anew")
    return Run(
        config,
        record["fingerprint"],
        dict(record.get("host", {})),
        _table(folder / "candidates.csv", CANDIDATE_TYPES),
        _table(folder / "pareto.csv", CANDIDATE_TYPES),
        _table(folder / "finalists.csv", FINAL_TYPES),
    )


def _table(path: Path, types: dict[str, str]) -> pd.DataFrame:
    command = f"python run_search.py search --resume {shlex.quote(str(path.parent))}"
    if not path.is_file():
        raise UserError(f"{path} is not there: the search has not come to its end; go on with {command}")
    try:
        return pd.read_csv(path, dtype=types)[list(types)]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); write it again with {command}") from None


def pick_candidate(run: Run, wanted: str, finetune: float | None = None) -> Picked:
    """The candidate that `wanted` names: best, knee, smallest, or the beginning of a candidate's key.

    A searched candidate stands for the finalist that it becomes with the finalists' recipe and the first seed.

    Args:
        finetune: epochs of a fine-tune of its own, distilled from the dense network; None: the finalists' recipe.
    """
    line = _line(run, wanted)
    if line["status"] != "ok":
        raise UserError(f"candidate {line['candidate']} failed ({line['reason']}); pick another one")
    final = line["stage"] == "final"
    candidate = Candidate(
        method=line["method"],
        options=run.config.options,
        allocation=json.loads(line["allocation"]),
        recipe=run.config.final_recipe if finetune is None else _long(run.config.recipe, finetune),
        seed=int(line["seed"]) if final else 0,
        judge="test",
    )
    key = line["key"] if final and finetune is None else candidate.key(run.fingerprint)
    return Picked(candidate, key, line["strategy"], line["target"], _tested(run, key))


def _long(recipe: Recipe, epochs: float) -> Recipe:
    weight = recipe.distill_weight or Recipe().distill_weight
    return recipe.model_copy(update={"epochs": epochs, "distill_weight": weight})


def _line(run: Run, wanted: str) -> Line:
    if wanted == "knee":
        return knee(run)
    if wanted in PICKS:
        return _finalist(run, wanted)
    found = run.candidates[run.candidates["key"].str.startswith(wanted)] if wanted else run.candidates[:0]
    keys = list(dict.fromkeys(found["key"]))
    if not keys:
        raise unknown("pick", wanted, [*PICKS, *run.candidates["candidate"]])
    if len(keys) > 1:
        raise UserError(f"pick {wanted!r} fits {len(keys)} candidates, {keys[0]} and {keys[1]} among them; write more")
    return records(found)[0]


def _finalist(run: Run, wanted: str) -> Line:
    """The finalist with the highest mean test accuracy, or the one of fewest FLOPs; its first seed.

    The seed is not chosen: the test set ranks finalists here, and must not rank seeds as well.
    """
    tested = run.finals[run.finals["test_accuracy"].notna()]
    if not len(tested):
        raise UserError(
            f"no finalist of {run.folder} has met the test set; pick knee, or a candidate from "
            f"{run.folder / 'candidates.csv'}"
        )
    order = (
        (["test_accuracy", "flops"], [False, True]) if wanted == "best" else (["flops", "test_accuracy"], [True, False])
    )
    chosen = tested.sort_values(order[0], ascending=order[1], kind="stable").iloc[0]
    line = run.candidates[run.candidates["candidate"] == chosen["candidate"]]
    if not len(line):
        raise UserError(f"the tables of {run.folder} do not belong together; write them again by resuming the search")
    return records(line)[0]


def knee(run: Run) -> Line:
    """Of the front, the candidate farthest above the line from its smallest to its largest.

    Both axes are scaled to [0, 1] first. Where nothing lies above that line, the one of fewest FLOPs.
    """
    front = run.front.sort_values("flops", kind="stable").reset_index(drop=True)
    if not len(front):
        raise UserError(f"{run.folder} has no front: no candidate succeeded; pick another run")
    flops, accuracy = front["flops"].to_numpy(dtype=float), front["accuracy"].to_numpy(dtype=float)
    above = _scaled(accuracy) - _scaled(flops)
    return records(front)[int(above.argmax())]


def _scaled(values: Any) -> Any:
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else values * 0


def _tested(run: Run, key: str) -> dict[int, float]:
    """Seed -> test accuracy, of all lines that differ from `key`'s in their seed alone; empty if it has none."""
    finals = run.candidates[(run.candidates["stage"] == "final") & (run.candidates["status"] == "ok")]
    own = finals[finals["key"] == key]
    if not len(own):
        return {}
    same = finals
    for column in ("method", "strategy", "target"):
        same = same[same[column] == own[column].iloc[0]]
    if run.config.finalists > 1:  # a method that learns its allocation has another one for every seed
        same = same[same["allocation"] == own["allocation"].iloc[0]]
    return {int(line["seed"]): float(line["test_accuracy"]) for line in records(same)}
