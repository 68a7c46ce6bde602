"""What a short fine-tune gains from: one change of the recipe at a time, read on a search split the weights never saw.

    python run_search.py train --network resnet20 --data npz:cifar10.npz --mean 0.485,0.456,0.406 \\
        --std 0.229,0.224,0.225 --epochs 20 --out resnet20-unseen.safetensors
    python benchmarks/recipe.py --weights resnet20-unseen.safetensors --data npz:cifar10.npz --epochs 0.25 --seeds 1

All networks are those of `acra-uniform` inside the blocks of a ResNet, whose streams keep their widths (`--streams`
narrows them too). A line for each change, method and seed is printed as it is measured; no test image is looked at.
Columns: accuracy on the search split, %; cross-entropy there; drift from the dense outputs, which is the least noisy;
seconds of the processor. What is not part of a recipe is done by the hooks that a fine-tune has anyway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.task_options import task_of, task_parser
from methods.base import Compressor, Tuning
from methods.registry import method_info
from models.tasks.load import load_task
from models.tasks.pictures import PictureTask, measure_accuracy
from search.allocation.budget import Budget
from search.judge.bind import bind_method
from search.judge.drift import Drift
from search.judge.finetune import finetune, learning_rate_share, recalibrate
from search.recipe import Recipe

FORMER = {"lr": 0.01, "distill_features": 0.0}
"""The recipe before features were distilled, and its rate."""


class Matrices(Tuning):
    """Convolutions as matrices (N, C·k²) under an optimizer of their own; the rest, and the first layer, under SGD."""

    def __init__(self, kind: str, lr: float, steps: int, recipe: Recipe) -> None:
        self._kind, self._lr, self._steps, self._schedule = kind, lr, steps, recipe.schedule

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        convolutions = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)][1:]
        self._pairs = [(weight, nn.Parameter(weight.detach().flatten(1).clone())) for weight in convolutions]
        matrices = [matrix for _, matrix in self._pairs]
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.Muon(matrices, lr=self._lr, weight_decay=0)
            if self._kind == "muon"
            else torch.optim.AdamW(matrices, lr=self._lr, weight_decay=0)
        )
        taken = {id(weight) for weight in convolutions}
        return [{"params": [parameter for parameter in network.parameters() if id(parameter) not in taken]}]

    def after_backward(self, network: nn.Module, step: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * learning_rate_share(step, self._steps, self._schedule)
        for weight, matrix in self._pairs:
            assert weight.grad is not None
            matrix.grad, weight.grad = weight.grad.flatten(1), None
        self._optimizer.step()
        with torch.no_grad():
            for weight, matrix in self._pairs:
                weight.copy_(matrix.view(weight.shape))


class NormsWithoutDecay(Tuning):
    """No weight decay on biases and on scales of norms."""

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        vectors = [parameter for parameter in network.parameters() if parameter.dim() < 2]
        matrices = [parameter for parameter in network.parameters() if parameter.dim() >= 2]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


class Alternating:
    """A part of the training set whose images are mirrored in every second epoch, the first by lot (airbench, 2024)."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def __len__(self) -> int:
        return len(self._part)

    def training_batches(self, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        plain = self._part.training_batches(batch_size, seed=seed, epoch=epoch)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        lot = torch.randint(2, (len(self),), generator=torch.Generator().manual_seed(seed)).bool()
        wanted = (lot ^ bool(epoch % 2))[order]
        for number, (inputs, labels) in enumerate(plain):
            mirrored = wanted[number * batch_size : (number + 1) * batch_size].to(inputs.device).view(-1, 1, 1, 1)
            yield torch.where(mirrored, inputs.flip(3), inputs), labels


@dataclass(frozen=True)
class Change:
    """One thing done otherwise."""

    recipe: dict[str, Any] = field(default_factory=dict)
    matrices: tuple[str, float] | None = None
    """Optimizer of the convolutions and its rate."""
    decay_norms: bool = True
    average: float = 0.0
    """Share of the steps, the last ones, whose weights are averaged."""
    alternating: bool = False


def _changes() -> dict[str, Change]:
    changes = {"the default recipe": Change()}
    former = {
        "without features": Change(),
        **{f"peak rate {lr:g}": Change({"lr": lr}) for lr in (0.003, 0.02, 0.04)},
        "one-cycle, 0.02": Change({"schedule": "one-cycle", "lr": 0.02}),
        **{f"temperature {t:g}": Change({"temperature": t}) for t in (1.0, 2.0, 8.0)},
        "no labels": Change({"distill_weight": 1.0}),
        "batch 64": Change({"batch_size": 64}),
        "momentum 0.8, 0.02": Change({"momentum": 0.8, "lr": 0.02}),
        "no weight decay": Change({"weight_decay": 0.0}),
        "no weight decay on norms": Change(decay_norms=False),
        "mean of the last fifth": Change(average=0.2),
        **{f"Muon {lr:g}": Change(matrices=("muon", lr)) for lr in (0.002, 0.005, 0.015)},
        "Adam 0.001": Change(matrices=("adam", 0.001)),
        "mirroring that alternates": Change(alternating=True),
    }
    changes |= {name: _with_recipe(change, FORMER) for name, change in former.items()}
    changes |= {f"features, weight {w:g}": Change({"distill_features": w}) for w in (1.0, 3.0, 10.0, 30.0, 100.0)}
    changes |= {f"features, peak rate {lr:g}": Change({"lr": lr}) for lr in (0.005, 0.01, 0.05)}
    changes["features, Muon 0.005"] = Change(matrices=("muon", 0.005))
    return changes


def _with_recipe(change: Change, fields: dict[str, Any]) -> Change:
    return Change(fields | change.recipe, change.matrices, change.decay_norms, change.average, change.alternating)


CHANGES = _changes()


def compress(compressor: Compressor, kept: float, *, streams: bool) -> nn.Module:
    """A network under uniform strengths that keeps at most so many of the FLOPs."""
    sites, limit = compressor.sites, Budget({"flops": int(kept * compressor.cost.dense.flops)}, compressor.cost)
    for strength in torch.linspace(0, 1, 1001).tolist():
        levels = [
            round(strength * (len(site.settings) - 1)) if streams or ".conv1" in site.name else 0 for site in sites
        ]
        if limit.largest_excess(torch.tensor([levels]).numpy())[0] <= 0:
            return compressor.compress(compressor.allocation(levels))
    raise SystemExit(f"kept {kept} is out of reach")


def measure(task: PictureTask, compressed: nn.Module, change: Change, recipe: Recipe, seed: int) -> dict[str, float]:
    """Fine-tune a compressed network in place and read the search split."""
    recipe = recipe.model_copy(update=change.recipe)
    start, network, tune = time.process_time(), compressed, task.tune
    steps = max(round(recipe.epochs * tune.epoch_steps(recipe.batch_size)), 1)
    tuning = Tuning() if change.decay_norms else NormsWithoutDecay()
    if change.matrices is not None:
        tuning = Matrices(*change.matrices, steps, recipe)
    average = AveragedModel(network)

    def note_step(step: int, steps: int) -> None:
        if step > (1 - change.average) * steps:
            average.update_parameters(network)

    recalibrate(network, task.objective, tune, recipe.recalibration_images, seed=seed, device=task.device)
    finetune(
        network, task.objective, Alternating(tune) if change.alternating else tune, recipe, seed=seed,
        device=task.device, tuning=tuning, teacher=task.network, on_step=note_step if change.average else None,
    )  # fmt: skip
    if change.average:
        network = average.module
    recalibrate(network, task.objective, tune, recipe.recalibration_images, seed=seed, device=task.device)
    seconds = time.process_time() - start
    accuracy, loss, _ = measure_accuracy(network, task.search)
    drift = Drift(task.network, task.objective, task.probes)(network)
    return {"accuracy": 100 * accuracy, "cross-entropy": loss, "drift": drift, "seconds": seconds}


def main() -> None:
    parser = task_parser(__doc__, "of a network that has not seen the search split")
    parser.add_argument("--methods", default="l1")
    parser.add_argument("--kept", type=float, default=0.5, help="FLOPs kept")
    parser.add_argument("--streams", action="store_true", help="narrow the streams between the blocks too")
    parser.add_argument("--epochs", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="changes whose names hold this text")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = load_task(task_of(arguments), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert isinstance(task, PictureTask)
    if task.seen:
        raise SystemExit(f"the weights {arguments.weights} may have seen the search split; see above how to train some")
    print("| method | change | epochs | seed | accuracy | cross-entropy | drift | s |\n|" + " --- |" * 8)
    for method in arguments.methods.split(","):
        compressor = bind_method(task, method, {})
        # Methods that remove channels would narrow the streams as well.
        streams = arguments.streams or method_info(method).place != "first"
        for name, change in CHANGES.items():
            for seed in range(arguments.seeds if arguments.only in name else 0):
                network = compress(compressor, arguments.kept, streams=streams)
                figures = measure(task, network, change, Recipe(epochs=arguments.epochs), seed)
                accuracy, loss, drift, seconds = figures.values()
                what = f"| {method} | {name} | {arguments.epochs:g} | {seed} |"
                print(f"{what} {accuracy:.2f} | {loss:.4f} | {drift:.5f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
