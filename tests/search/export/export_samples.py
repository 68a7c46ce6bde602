"""A run on the embedded data, to be exported."""

from pathlib import Path

import torch

from models.task_config import TaskConfig
from models.tasks.load import load_task
from search.carry_out import carry_out
from search.judge.baseline import train_baseline
from search.observer import Observer
from search.recipe import Recipe
from search.settings.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
RECIPE = Recipe(epochs=0.3, batch_size=64, lr=0.05)
ALL = ("config", "safetensors", "pt2", "onnx")


def searched(root: Path, network: str, method: str) -> Path:
    """A run of a network with trained weights, so that fresh ones would be noticed."""
    weights = root / f"{method}.safetensors"
    train_baseline(
        TaskConfig(network=network), Recipe(epochs=2, batch_size=64, lr=0.1, distill_weight=0), weights, device="cpu"
    )
    config = RunConfig(
        task=TaskConfig(network=network, weights=str(weights)),
        methods=(method,),
        strategies=("acra-uniform",),
        targets=("0.7", "0.4"),
        recipe=RECIPE,
        final_seeds=2,
        workers=0,
        device="cpu",
        ledger=str(root / "ledger.db"),
        results=str(root),
        name=method,
    )
    assert carry_out(config, Observer()).complete, "a signal has stopped the search"
    return root / method


def images(count: int) -> torch.Tensor:
    """The first test images, as the network takes them."""
    task = load_task(TaskConfig(network="small"), "cpu")
    return next(iter(task.test.batches(count)))[0].contiguous()
