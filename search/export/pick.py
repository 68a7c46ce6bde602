"""A finished run read from its folder, and one of its candidates picked for export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from methods.base import Allocation
from models.errors import UserError, first_line, unknown_name
from search.candidate import Candidate
from search.engine.run_file import RUN_FILE, DamagedRunError, json_kind
from search.engine.run_folder import find_run_folder
from search.engine.run_record import PARTS, read_config, read_record
from search.recipe import Recipe
from search.results.best import Line, best_of_target, rank_finals
from search.results.tables import ADDED, CANDIDATE_TYPES, FINAL_TYPES, figure_or_none, records
from search.settings.command import resume_command
from search.settings.config import RunConfig

PICKS = ("best", "knee", "smallest")


@dataclass(frozen=True)
class Run:
    """What a run left in its folder."""

    config: RunConfig
    fingerprint: str
    host: dict[str, str]
    candidates: pd.DataFrame
    front: pd.DataFrame
    finals: pd.DataFrame
    task_parts: Any = None
    """What the fingerprint is a hash of; None of a run of an earlier version."""

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
    allocation: Allocation
    """Of the candidate that was judged; a fine-tune must arrive at it, or start from it."""
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
    folder = find_run_folder(run)
    record = read_record(folder)
    if not isinstance(record.get("fingerprint"), str):
        raise DamagedRunError(folder / RUN_FILE, "it names no task")
    if not isinstance(record.get("host", {}), dict):
        raise DamagedRunError(folder / RUN_FILE, f"its host is {json_kind(record['host'])} in place of an object")
    config = read_config(folder)
    again = resume_command(config)
    tables = {"candidates": CANDIDATE_TYPES, "pareto": CANDIDATE_TYPES, "finalists": FINAL_TYPES}
    candidates, front, finals = (_table(folder / f"{name}.csv", types, again) for name, types in tables.items())
    facts = dict(record.get("host", {}))
    return Run(config, record["fingerprint"], facts, candidates, front, finals, record.get(PARTS))


def _table(path: Path, types: dict[str, str], command: str) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path} is not there: the search has not come to its end; go on with {command}")
    try:
        table = pd.read_csv(path, dtype=types, float_precision="round_trip")
        table[[name for name in types if name not in ADDED]]  # raises for another program's table
        return table.reindex(columns=list(types)).astype(types)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); write it again with {command}") from None


def pick_candidate(run: Run, wanted: str, finetune: float | None = None) -> Picked:
    """The candidate that `wanted` names: best, knee, smallest, a target as it was asked for (the best finalist of
    that target), or the beginning of a candidate's key.

    A searched candidate stands for the finalist that it becomes with the finalists' recipe and the first seed. What
    a method has learned is then given: a fine-tune of it keeps the allocation that was judged. A finalist is itself.

    Args:
        finetune: epochs of a fine-tune of its own, distilled from the dense network; None: the finalists' recipe.
    """
    line = _line(run, wanted)
    if line["status"] != "ok":
        raise UserError(f"candidate {line['candidate']} failed ({line['reason']}); pick another one")
    itself = line["stage"] == "final" and finetune is None
    allocation = Allocation.from_text(line["allocation"])
    learned = figure_or_none(line["learned_target"]) if itself else None
    recipe = run.config.final_recipe if finetune is None else _long(run.config.recipe, finetune)
    candidate = Candidate(
        method=line["method"],
        options=run.config.options.get(line["method"], {}),
        allocation=Allocation() if learned is not None else allocation,
        learned_target=learned,
        recipe=recipe,
        seed=int(line["seed"]) if line["stage"] == "final" else 0,
        judge="test",
    )
    key = line["key"] if itself else candidate.key(run.fingerprint)
    return Picked(candidate, allocation, key, line["strategy"], line["target"], _tested(run, key))


def _long(recipe: Recipe, epochs: float) -> Recipe:
    weight = recipe.distill_weight or Recipe().distill_weight
    return recipe.model_copy(update={"epochs": epochs, "distill_weight": weight})


def _line(run: Run, wanted: str) -> Line:
    if wanted == "knee":
        return knee(run)
    if wanted in PICKS or wanted in targets_of(run):
        return _best_line(run, wanted)
    found = run.candidates[run.candidates["key"].str.startswith(wanted)] if wanted else run.candidates[:0]
    keys = list(dict.fromkeys(found["key"]))
    if not keys:
        raise unknown_name("pick", wanted, [*PICKS, *targets_of(run), *run.candidates["candidate"]])
    if len(keys) > 1:
        raise UserError(f"pick {wanted!r} fits {len(keys)} candidates, {keys[0]} and {keys[1]} among them; write more")
    return records(found)[0]


def targets_of(run: Run) -> list[str]:
    """The targets of a run, as they were asked for."""
    return [target for target in dict.fromkeys(run.candidates["target"]) if pd.notna(target)]


def _best_line(run: Run, wanted: str) -> Line:
    """The answer to a target; of all finalists the one with the highest mean test accuracy, or of fewest FLOPs.

    Of a finalist it is the first seed that succeeded. The seed is not chosen: the test set ranks finalists here, and
    must not rank seeds as well.
    """
    if wanted not in PICKS:
        best = best_of_target(run.candidates, run.finals, wanted)
        if best is None:
            raise UserError(f"no candidate of {run.folder} at {wanted} succeeded; pick another target")
        chosen = best.line
    else:
        finalists = [place.candidate for place in rank_finals(run.finals)]
        if not finalists:
            raise UserError(
                f"no finalist of {run.folder} has met the test set; pick knee, a target, or a candidate from "
                f"{run.folder / 'candidates.csv'}"
            )
        chosen = finalists[0] if wanted == "best" else min(finalists, key=lambda line: line["flops"])
    rows = run.candidates[run.candidates["candidate"] == chosen["candidate"]]
    if not len(rows):
        raise UserError(f"the tables of {run.folder} do not belong together; write them again by resuming the search")
    return records(rows)[0]


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
