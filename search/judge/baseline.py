"""Dense baselines: networks trained on the fine-tuning part alone, so that the search split stays unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from models.checkpoints.writing import Encode, weights_encoder
from models.devices import pick_device
from models.paths import check_utf8_names
from models.task_config import TaskConfig
from models.tasks.load import check_trainable, load_task
from models.tasks.metric import Metric
from models.tasks.picture_parts import split_metadata
from search.files.output_file import check_output_file, write_output_file
from search.machine.last_words import last_words
from search.recipe import DENSE_TRAINING, Recipe

DEFAULT_TASK = TaskConfig(network="small", data="digits", search_fraction=0.25)  # of 1,438: a tenth would rank little
# The set is small and easily learned: it takes fewer passes, in smaller steps.
DEFAULT_RECIPE = DENSE_TRAINING.model_copy(update={"epochs": 15.0, "batch_size": 64})


def train_baseline(
    config: TaskConfig,
    recipe: Recipe,
    path: Path,
    *,
    seed: int = 0,
    device: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    force: bool = False,
    spare: Sequence[Path] = (),
) -> tuple[Metric, dict[str, float]]:
    """Train `config`'s network on the fine-tuning part and write its weights with the split in their metadata.

    Args:
        on_step: called with (steps done, steps in all).
        on_notice: called before training with each sentence on how network and data were read.
        force: replace a file that is there.
        spare: folders that take the weights if `path` does not in the end.

    Returns:
        What ranks, and its values on the search split and on the test set.
    """
    from search.judge.finetune import finetune  # plans come by this module, and most train nothing

    encode = check_weights_file(path, force=force)  # before the work, not after
    with last_words("while it trained the network"):
        task = load_task(config, pick_device(device))
        check_trainable(task)
        if on_notice is not None:
            for notice in task.notices:
                on_notice(notice)
        task.check(test=True)
        finetune(task.network, task.objective, task.tune, recipe, seed=seed, device=task.device, on_step=on_step)
    scores = {
        "search": task.score(task.network, "search").metrics[task.metric.name],
        "test": task.score(task.network, "test").metrics[task.metric.name],
    }
    record = {"recipe": recipe.model_dump_json(), "network": config.network, task.metric.name: json.dumps(scores)}
    split = split_metadata(config) if config.task is None else {}  # a user's task splits its data itself
    content = encode(task.network, {**split, **record})
    write_output_file(path, content, force=force, spare=spare)
    return task.metric, scores


def check_weights_file(path: Path, *, force: bool) -> Encode:
    """What makes a network the content of `path`; UserError if the file could not be written or would be replaced."""
    encode = weights_encoder(path)
    check_utf8_names(path)
    check_output_file(path, force=force)
    return encode


def baseline_task(folder: Path) -> TaskConfig:
    """The embedded task, its weights in `folder`: `train_missing_baseline` makes them when the task is first loaded."""
    stamp = hashlib.sha256((DEFAULT_RECIPE.model_dump_json() + DEFAULT_TASK.model_dump_json()).encode()).hexdigest()[:8]
    path = folder / f"{DEFAULT_TASK.network}-{DEFAULT_TASK.data}-{stamp}.safetensors"
    return DEFAULT_TASK.model_copy(update={"weights": str(path)})


def train_missing_baseline(config: TaskConfig) -> None:
    """Train the embedded task's network, in seconds, if that is what the task asks for and nobody has trained it yet.

    Called after all settings were checked, immediately before the task is loaded: a mistyped one costs no training.
    """
    if config.weights is None or Path(config.weights).exists():
        return
    path = Path(config.weights)
    if config.weights == baseline_task(path.parent).weights:
        # Two searches that begin at once train the same network, and either's file will do.
        train_baseline(DEFAULT_TASK, DEFAULT_RECIPE, path, device="cpu", force=True)
