"""The options that several commands share, declared once, with what they may be at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from models.errors import UserError
from search.allocation.targets import MEASURES, combined
from search.settings import bounds
from search.settings.groups import Group

DEFAULT_TARGET = "0.5"

Network = Annotated[str | None, typer.Option(help="A name from `networks`, or path/to/file.py:function.")]
Weights = Annotated[
    str | None, typer.Option(help="Checkpoint of the dense network (.pt, .pth, .safetensors); FILE#ema: a part of it.")
]
DataSpec = Annotated[
    str | None, typer.Option("--data", help="A data set, imagefolder:DIR, npz:FILE or file.py:function.")
]
Epochs = Annotated[
    float,
    typer.Option("--epochs", min=0, max=bounds.MOST_EPOCHS, help="Passes over the data; fractions are allowed."),
]
Rate = Annotated[float, typer.Option("--lr", max=bounds.MOST_RATE, help="Peak learning rate.")]
Seed = Annotated[int, typer.Option(min=0, max=bounds.MOST_SEED)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N; a GPU is used by itself if there is one.")]
LedgerSpec = Annotated[str | None, typer.Option(help="SQLite file or database URL; default <results>/ledger.db.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@dataclass
class TaskOptions(Group):
    """What is compressed, and the data it is judged on."""

    network: Network = None
    weights: Weights = None
    data: DataSpec = None
    data_root: Annotated[str, typer.Option(help="Where torchvision's data sets lie or are downloaded to.")] = "data"
    mean: Annotated[str | None, typer.Option(help="Per channel, comma-separated, for inputs in [0, 1].")] = None
    std: Annotated[str | None, typer.Option(help="Like --mean.")] = None
    train_images: Annotated[
        int | None, typer.Option(max=bounds.MOST_IMAGES, help="Use only so many training images.")
    ] = None
    search_fraction: Annotated[
        float | None, typer.Option(help="Part of the training set that ranks candidates; default 0.1.")
    ] = None
    split_seed: Annotated[
        int, typer.Option(min=0, max=bounds.MOST_SEED, help="Seed of the split of the training set.")
    ] = 0
    results: Annotated[str, typer.Option(help="Where runs, the ledger and baselines lie.")] = "results"


@dataclass
class TrainOptions(Group):
    """How a dense network is trained."""

    epochs: Epochs = 30.0
    batch_size: Annotated[int, typer.Option(min=2, max=bounds.MOST_BATCH)] = 128
    lr: Rate = 0.1
    schedule: Annotated[str, typer.Option(help="one-cycle or cosine.")] = "one-cycle"
    weight_decay: Annotated[float, typer.Option(min=0, max=bounds.MOST_DECAY)] = 5e-4


@dataclass
class RecipeOptions(TrainOptions):
    """How candidates are fine-tuned: shorter, gentler, following the dense network."""

    epochs: Epochs = 1.0
    lr: Rate = 0.01
    schedule: Annotated[str, typer.Option(help="cosine or one-cycle.")] = "cosine"
    distill_weight: Annotated[
        float, typer.Option("--distill", min=0, max=1, help="Weight of the dense network's outputs; 0: off.")
    ] = 0.9
    temperature: Annotated[float, typer.Option(max=bounds.MOST_TEMPERATURE, help="Of distillation.")] = 4.0


@dataclass
class PlanOptions(Group):
    """What is asked of a method, and how its sites are measured."""

    targets: Annotated[
        str | None,
        typer.Option("--target-flops", help="Comma-separated: 0.5, 60M, 1.2G, 2.12x; 0.5 where no target is given."),
    ] = None
    target_params: Annotated[str | None, typer.Option(help="Likewise of parameters: 0.4, 2M. All must be met.")] = None
    target_bytes: Annotated[str | None, typer.Option(help="Likewise of stored bytes: 0.25, 500K.")] = None
    target_latency: Annotated[
        str | None, typer.Option(help="Likewise of measured time for a batch: 0.6, 5ms, 1.8x.")
    ] = None
    latency_batch: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_BATCH, help="Images in the batch whose latency is meant.")
    ] = 1
    target: Annotated[
        str | None, typer.Option(help="Several measures in one: 'flops 0.5 + params 0.4', comma-separated.")
    ] = None
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE for the method, in compare METHOD.NAME=VALUE; repeatable."),
    ] = None
    keep_dense: Annotated[
        list[str] | None,
        typer.Option(help="Sites or layers to leave dense, by name or pattern ('layer1.*'); repeatable."),
    ] = None
    bound: Annotated[
        list[str] | None,
        typer.Option(help="Kept fraction of some sites: 'layer3.*=0.25..0.75', or 'PATTERN=KNOB:2..4'; repeatable."),
    ] = None
    round_channels: Annotated[
        list[str] | None,
        typer.Option(help="Keep multiples of so many channels: 8, or 'layer3.*=16' for some sites; repeatable."),
    ] = None
    scan_levels: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_LEVELS, help="Strengths measured per site in a sensitivity scan.")
    ] = 7
    scan_images: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_IMAGES, help="Search images per measurement of a scan.")
    ] = 2000
    seed: Seed = 0
    device: Device = None

    def values(self) -> dict[str, Any]:
        values = {**super().values(), "options": self.options or []}
        given = {name: values.pop("targets" if name == "flops" else f"target_{name}") for name in MEASURES}
        values["targets"] = _targets(values.pop("target"), given)
        names = ("keep_dense", "bound", "round_channels")
        constraints = {name: tuple(values.pop(name) or ()) for name in names}
        return {**values, "constraints": constraints}


def _targets(whole: str | None, given: Mapping[str, str | None]) -> str:
    """One list of targets from the options that name them."""
    named = [name for name, text in given.items() if text is not None]
    if whole is not None and named:
        raise UserError(f"--target says all there is to say of targets; leave out --target-{named[0]}")
    if whole is None and not named:
        return DEFAULT_TARGET
    return combined(given) if whole is None else whole


@dataclass
class RunOptions(Group):
    """How a search is carried out and where it is kept."""

    final_epochs: Annotated[
        float | None,
        typer.Option(min=0, max=bounds.MOST_EPOCHS, help="Of finalists; default three times --epochs."),
    ] = None
    trials: Annotated[
        int,
        typer.Option(
            min=1,
            max=bounds.MOST_CANDIDATES,
            help="Candidates per target at most; strategies that sample use them all.",
        ),
    ] = 8
    rungs: Annotated[
        str | None,
        typer.Option(
            help="Epochs after which sampled candidates are judged and the better ones go on, as in 0,0.25,1; "
            "the last in place of --epochs."
        ),
    ] = None
    reduction_factor: Annotated[
        float, typer.Option(min=1, max=bounds.MOST_REPEATS, help="One in so many goes on to the next rung.")
    ] = 3.0
    workers: Annotated[
        int | None, typer.Option(min=0, max=bounds.MOST_WORKERS, help="Processes; 0 runs in this one, without Ray.")
    ] = None
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, max=bounds.MOST_GPUS, help="Fractions share a GPU.")
    ] = None
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster: auto or host:port.")] = None
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0, max=bounds.MOST_SECONDS, help="Seconds for one candidate; with --workers 0 for its fine-tune alone."
        ),
    ] = None
    ledger: LedgerSpec = None
    name: Annotated[str | None, typer.Option(help="Of the run's folder.")] = None
