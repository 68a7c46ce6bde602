"""One of a finished run's candidates, picked for export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from methods.base import Allocation
from models.errors import UserError, unknown_name
from search.allocation.targets import Target, parse_target
from search.candidate import Candidate
from search.export.finished_run import FinishedRun
from search.recipe import Recipe
from search.results.best import rank_finals
from search.results.tables import TableRecord, figure_or_none, table_records

PICKS = ("best", "knee", "smallest")


@dataclass(frozen=True)
class Picked:
    """The candidate to export: what it is, and the test results known of it."""

    candidate: Candidate
    allocation: Allocation
    """Of the candidate that was judged; a fine-tune must arrive at it, or start from it."""
    key: str
    strategy: str
    target: Target
    tested: dict[int, float]
    """Seed -> test score of the same finalist."""


def pick_candidate(run: FinishedRun, wanted: str, finetune: float | None = None) -> Picked:
    """The candidate that `wanted` names: best, knee, smallest, a target as it was asked for (the best finalist of
    that target), or the beginning of a candidate's key.

    A searched candidate stands for the finalist that it becomes with the finalists' recipe and the first seed. What
    a method has learned is then given: a fine-tune of it keeps the allocation that was judged. A finalist is itself.

    Args:
        finetune: epochs of a fine-tune of its own, distilled from the dense network; None: the finalists' recipe.
    """
    record = _find_record(run, wanted)
    if record["status"] != "ok":
        raise UserError(f"candidate {record['candidate']} failed ({record['reason']}); pick another one")
    # A fine-tune of its own has another recipe, so even a finalist then becomes another candidate.
    itself = record["stage"] == "final" and finetune is None
    allocation = Allocation.from_text(record["allocation"])
    learned = figure_or_none(record["learned_target"]) if itself else None
    recipe = run.config.final_recipe if finetune is None else _distilled_recipe(run.config.recipe, finetune)
    candidate = Candidate(
        method=record["method"],
        options=run.config.options.get(record["method"], {}),
        allocation=Allocation() if learned is not None else allocation,
        learned_target=learned,
        recipe=recipe,
        seed=int(record["seed"]) if record["stage"] == "final" else 0,
        judge="test",
    )
    key = record["key"] if itself else candidate.key(run.fingerprint)
    target = parse_target(record["target"])
    return Picked(candidate, allocation, key, record["strategy"], target, _score_by_seed(run, key))


def _distilled_recipe(recipe: Recipe, epochs: float) -> Recipe:
    """The search's recipe for so many epochs; distilled even where the search was not, as the teacher is at hand."""
    weight = recipe.distill_weight or Recipe().distill_weight
    return recipe.model_copy(update={"epochs": epochs, "distill_weight": weight})


def _find_record(run: FinishedRun, wanted: str) -> TableRecord:
    if wanted == "knee":
        return knee_of_front(run)
    if wanted in PICKS or wanted in run.tables.targets:
        return _best_record(run, wanted)
    candidates = run.tables.candidates
    named = candidates[candidates["key"].str.startswith(wanted)] if wanted else candidates[:0]
    keys = list(dict.fromkeys(named["key"]))
    if not keys:
        raise unknown_name("pick", wanted, [*PICKS, *run.tables.targets, *candidates["candidate"]])
    if len(keys) > 1:
        raise UserError(f"pick {wanted!r} fits {len(keys)} candidates, {keys[0]} and {keys[1]} among them; write more")
    return table_records(named)[0]


def _best_record(run: FinishedRun, wanted: str) -> TableRecord:
    """The answer to a target; of all finalists the one with the best mean on the test set, or of fewest FLOPs.

    Of a finalist it is the first seed that succeeded. The seed is not chosen: the test set ranks finalists here, and
    must not rank seeds as well.
    """
    if wanted not in PICKS:
        best = run.tables.best(wanted)
        if best is None:
            raise UserError(f"no candidate of {run.folder} at {wanted} succeeded; pick another target")
        chosen = best.record
    else:
        finalists = [place.candidate for place in rank_finals(run.tables.finals, metric=run.tables.metric)]
        if not finalists:
            raise UserError(
                f"no finalist of {run.folder} has met the test set; pick knee, a target, or a candidate from "
                f"{run.folder / 'candidates.csv'}"
            )
        chosen = finalists[0] if wanted == "best" else min(finalists, key=lambda finalist: finalist["flops"])
    # The table of finalists has means over seeds; status, stage, seed and key stand in the table of candidates.
    candidates = run.tables.candidates
    matches = candidates[candidates["candidate"] == chosen["candidate"]]
    if matches.empty:
        raise UserError(f"the tables of {run.folder} do not belong together; write them again by resuming the search")
    return table_records(matches)[0]


def knee_of_front(run: FinishedRun) -> TableRecord:
    """Of the front, the candidate farthest above the line from its smallest to its largest.

    Both axes are scaled to [0, 1] first. Where nothing lies above that line, the one of fewest FLOPs.
    """
    front = run.tables.front.sort_values("flops", kind="stable").reset_index(drop=True)
    if not len(front):
        raise UserError(f"{run.folder} has no front: no candidate succeeded; pick another run")
    flops = front["flops"].to_numpy(dtype=float)
    worths = run.tables.metric.worth(1) * front["score"].to_numpy(dtype=float)
    # In the unit square the line from the smallest to the largest is the diagonal: the height above it ranks as the
    # distance from it does.
    above = _unit_range(worths) - _unit_range(flops)
    return table_records(front)[int(above.argmax())]


def _unit_range(values: Any) -> Any:
    """Scaled to [0, 1]; all 0 where they are equal, so that a front of one point has a knee."""
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else values * 0


def _score_by_seed(run: FinishedRun, key: str) -> dict[int, float]:
    """Seed -> test score, of all lines that differ from `key`'s in their seed alone; empty if it has none."""
    candidates = run.tables.candidates
    finals = candidates[(candidates["stage"] == "final") & (candidates["status"] == "ok")]
    picked = finals[finals["key"] == key]
    if picked.empty:
        return {}
    columns = ["method", "strategy", "target"]
    if run.config.finalists > 1:  # a method that learns its allocation has another one for every seed
        columns.append("allocation")
    siblings = finals[(finals[columns] == picked[columns].iloc[0]).all(axis=1)]
    return {int(record["seed"]): float(record["test_score"]) for record in table_records(siblings)}
