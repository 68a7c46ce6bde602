"""How much there is to do: candidates per stage, and how one of each compares with the others."""

from __future__ import annotations

import math

from models.tasks.loaded import TrainingPart
from search.engine.prepare import PreparedRun
from search.engine.prepare_method import PreparedMethod
from search.judge.finetune import count_steps
from search.strategies.contract import Stage
from search.strategies.registry import find_strategy
from search.strategies.sensitivity import scan_points

# Forward passes that a training step costs, its backward being about two, and what the dense teacher adds to it.
TRAINING, TEACHER = 3, 1


def expected_candidates(run: PreparedRun) -> dict[Stage, int]:
    """Candidates per stage as far as they can be foreseen."""
    counts: dict[Stage, int] = {"scan": 0, "rung": 0, "search": 0, "final": 0}
    for method in run.methods:
        for stage, count in _expected_of_method(method).items():
            counts[stage] += count
    return counts


def _expected_of_method(method: PreparedMethod) -> dict[Stage, int]:
    config = method.config
    infos = [find_strategy(name)[0] for name in config.strategies]
    # A scan measures the dense network too; it is shared by the strategies that need it, and serves every target.
    scan = len(scan_points(method.problem.scanned_sites, config.scan_levels)) + 1
    # Where damages are predicted, those of the two methods of a composition are brought to one scale.
    families = len(method.problem.families)
    scaling = families + 1 if families > 1 else 0
    predicted = method.problem.predicts_damages
    sampled = sum(info.samples for info in infos)
    unsampled = sum(min(info.candidates, config.trials) for info in infos if not info.samples)
    reached = [float(config.trials)] if config.ladder is None else config.ladder.expected_counts(config.trials)
    # On the way to the last rung candidates are stopped: how many reach it is an expectation, so counts are rounded up.
    per_target = unsampled + sampled * reached[-1]
    answers = len(config.strategies) if config.comparison else 1  # per target
    return {
        "scan": max(
            (scan if info.scans(predicted=predicted) else scaling for info in infos if info.needs_data), default=0
        ),
        "rung": math.ceil(sampled * sum(reached[:-1])) * len(method.targets),
        "search": math.ceil(per_target) * len(method.targets),
        "final": config.finalists * config.final_seeds * len(method.targets) * answers,
    }


def forward_passes(run: PreparedRun) -> dict[Stage, float]:
    """Forward passes of an image per candidate and stage, roughly; no seconds, these are for the search to measure."""
    config, task = run.config, run.task
    # Batch norm is measured anew before and after a fine-tune, hence twice below; a scan has no fine-tune.
    recalibrate = min(config.recipe.recalibration_images, len(task.tune))
    searched, tested = task.count_inputs("search"), task.count_inputs("test")
    step = TRAINING + (TEACHER if config.recipe.distill_weight else 0)

    def training_passes(epochs: float, part: TrainingPart) -> float:
        recipe = config.recipe.model_copy(update={"epochs": epochs})
        return count_steps(recipe, part) * len(part) / part.epoch_steps(recipe.batch_size) * step

    # A rung is charged with the first one's training, though later ones train for longer: most are stopped there.
    return {
        "rung": 2 * recalibrate + searched + training_passes((*config.rungs, 0.0)[0], task.tune),
        "scan": recalibrate + min(config.scan_images, searched),
        "search": 2 * recalibrate + searched + training_passes(config.recipe.epochs, task.tune),
        "final": 2 * recalibrate + tested + training_passes(config.final_recipe.epochs, task.train),
    }
