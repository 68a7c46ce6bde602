"""The settings that each command takes, and the Python function of the same name: a selection of declared fields."""

from __future__ import annotations

from typing import Annotated, Any

from models.settings import NumberText, Option, Settings
from search.recipe import DENSE_TRAINING
from search.settings.config import RunConfig
from search.settings.setting import declare_settings

_USUAL = ",".join(map(str, RunConfig.model_fields["targets"].default))


class TargetSettings(Settings):
    """How targets are given: a list for every measure, or several measures in one."""

    targets: Annotated[
        tuple[NumberText, ...] | None, Option("--target-flops", default=f"{_USUAL} if there is none")
    ] = None
    """Budgets of FLOPs, comma-separated: 0.5, 60M, 1.2G, 2.12x."""
    target_params: tuple[NumberText, ...] | None = None
    """Budgets of parameters: 0.4, 2M. Those of several measures are met together."""
    target_bytes: tuple[NumberText, ...] | None = None
    """Budgets of stored bytes: 0.25, 500K."""
    target_latency: tuple[NumberText, ...] | None = None
    """Budgets of the measured time of a batch: 0.6, 5ms, 1.8x; phone.json:0.6 on another device, by its table. Those of
    several devices are met together."""
    target: tuple[NumberText, ...] | None = None
    """Budgets of several measures in one: 'flops 0.5 + params 0.4', comma-separated."""


class ResumeSettings(Settings):
    """How a run goes on that is there already."""

    resume: Annotated[str | None, Option(metavar="PATH")] = None
    """A run's folder, or its name below `results`: go on with it; other settings are ignored."""
    retry_failed: bool = False
    """Judge failed candidates of the ledger again."""


class TrainSettings(Settings):
    """What becomes of a dense network that was trained."""

    out: Annotated[str, Option(metavar="PATH")]
    """Where the weights go: .safetensors, or .pt, .pth or .th as torch.save writes it."""
    force: bool = False
    """Replace the file if it is there."""


# What a comparison takes in place of the configuration's own defaults: some may be chosen, some may not.
_COMPARE_DEFAULTS = {"methods": ("l1", "fpgm", "kse"), "strategies": ("acra-uniform", "lagrangian")}
COMPARE_FIXED: dict[str, Any] = {
    "comparison": True,
    "warm_start": False,  # every strategy answers for itself
}
_TASK = declare_settings(RunConfig, "task")
_TARGETS = declare_settings(TargetSettings)
_RESUME = declare_settings(ResumeSettings)
_ONE_METHOD = {"methods": "method", "strategies": "strategy"}

SEARCH = {
    **_TASK,
    **_TARGETS,
    **declare_settings(RunConfig, without=("task", "targets", "comparison", "code"), keywords=_ONE_METHOD),
    **_RESUME,
}
COMPARE = {
    **_TASK,
    **_TARGETS,
    **declare_settings(
        RunConfig,
        without=("task", "targets", "code", "finalists", *COMPARE_FIXED),
        defaults=_COMPARE_DEFAULTS,
        keywords={"final_seeds": "seeds"},
    ),
    **_RESUME,
}
PLAN = {
    **_TASK,
    **_TARGETS,
    **declare_settings(
        RunConfig,
        *("methods", "options", "strategies", "latency_batch", "latency_tables", "constraints"),
        *("seed", "scan_levels", "scan_images", "device", "results"),
        defaults={"strategies": ("acra-uniform",)},
        keywords=_ONE_METHOD,
    ),
}
TRAIN = {
    **_TASK,
    **declare_settings(
        RunConfig,
        *("recipe", "seed", "device", "results"),
        without=("distill_weight", "temperature", "distill_features", "recalibration_images"),
        defaults=DENSE_TRAINING.model_dump(),
    ),
    **declare_settings(TrainSettings),
}
