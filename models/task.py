"""A task: network, weights, data and their split, loaded, with the fingerprint that outcomes are kept under."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.checkpoints.loading import read_metadata, split_entry
from models.data.catalog import data_identity, data_info, load_data
from models.data.images import DataInfo, Images
from models.data.pixel_scales import BYTES
from models.data.splits import stratified_sample, stratified_split
from models.dense_network import prepare_network
from models.errors import UserError
from models.networks.catalog import pin_network
from models.notices import collect_notices
from models.settings import setting_name
from models.task_config import TaskConfig
from models.user.code import is_user_spec, split_spec
from models.user.source_files import source_digest
from models.user.spec_names import data_name, network_subject
from models.wording import plural


@dataclass
class Task:
    """A task, loaded on a device."""

    config: TaskConfig
    info: DataInfo
    network: nn.Module
    """Dense, in evaluation mode, on the device."""
    memory_format: torch.memory_format
    """How the network's weights and the batches of all images lie: channels last, unless the code needs otherwise."""
    tune: Images
    """The part of the training set that fine-tunes."""
    search: Images
    """The part of the training set that ranks candidates."""
    train: Images
    """Both parts: what finalists, already chosen, are fine-tuned on."""
    test: Images
    """Only finalists meet it."""
    device: torch.device
    fingerprint: str
    parts: Mapping[str, object]
    """What the fingerprint is a hash of: digests of network, weights and data, and settings."""
    training_fault: str | None
    """Why the network cannot be fine-tuned, if it cannot."""
    seen: bool
    """Whether the weights may have been trained on the search split."""
    notices: tuple[str, ...] = ()
    """What was found out when network and data were read, a sentence each (`models.notices`)."""


def pick_device(name: str | None = None) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; None takes a GPU if there is one. UserError if it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"device {name!r} is not known; use cpu, cuda or cuda:N")
    device = torch.device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        there = plural(count, "GPU") if count else "no GPU"
        raise UserError(f"device {name!r} is not there: this machine has {there}")
    return device


def load_network(config: TaskConfig, info: DataInfo | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The dense network of `models.dense_network.prepare_network`, ready to be compressed."""
    return prepare_network(config, info or data_info(config), device).network


def check_trainable(task: Task) -> None:
    """UserError if the task's network cannot be fine-tuned: every candidate would fail alike."""
    if task.training_fault is not None:
        raise UserError(
            f"{network_subject(task.config.network)} cannot be trained: {task.training_fault}; mend that, "
            f"or search without fine-tuning ({setting_name('epochs')} 0, {setting_name('final_epochs')} 0)"
        )


def load_task(config: TaskConfig, device: torch.device | str) -> Task:
    """Network and data, ready to judge candidates on `device`."""
    device = torch.device(device)
    with collect_notices() as notices:
        data = load_data(config, device)
        dense = prepare_network(config, data.info, device)
        parts, seen = task_parts(config, data.info), _may_have_seen_search_split(config)
    train, test = (images.in_memory_format(dense.memory_format) for images in (data.train, data.test))
    tune, search = _split_training_set(config, train.labels)
    return Task(
        config=config,
        info=data.info,
        network=dense.network,
        memory_format=dense.memory_format,
        training_fault=dense.training_fault,
        tune=train.subset(tune),
        search=train.subset(search),
        train=train.subset(torch.cat([tune, search]).sort().values),
        test=test,
        device=device,
        fingerprint=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20],
        parts=parts,
        seen=seen,
        notices=tuple(notices),
    )


def _split_training_set(config: TaskConfig, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the images to tune on and of those to search with.

    The training set is split before both parts are shrunk: a smaller trial never tunes on what a larger one ranks with.
    """
    tune, search = stratified_split(labels, config.search_fraction, config.split_seed)
    if config.train_images is not None:
        if config.train_images > len(labels):
            raise UserError(
                f"train_images {config.train_images} exceeds the {len(labels)} training images of "
                f"{data_name(config.data)}"
            )
        search_count = round(config.train_images * config.search_fraction)
        tune_count = min(config.train_images - search_count, len(tune))
        search = search[stratified_sample(labels[search], min(search_count, len(search)), config.split_seed)]
        tune = tune[stratified_sample(labels[tune], tune_count, config.split_seed)]
    if not len(search) or len(tune) < 2:
        raise UserError(
            f"{len(tune) + len(search)} training images leave {len(tune)} to tune on and {len(search)} to search with "
            f"at a search fraction of {config.search_fraction}; use more images or another fraction"
        )
    # In random order, so that its first so many images stand for all of it even where files are sorted by class.
    shuffled = torch.randperm(len(search), generator=torch.Generator().manual_seed(config.split_seed))
    return tune, search[shuffled]


def split_metadata(config: TaskConfig) -> dict[str, str]:
    """What a checkpoint must record of the training split, so that it counts as not having seen the search split."""
    return {
        "split_fraction": repr(config.search_fraction),
        "split_seed": str(config.split_seed),
        "data": data_identity(config),
    }


def _may_have_seen_search_split(config: TaskConfig) -> bool:
    """Whether weights come with no record of this very split: those that a user brings have usually seen all of it."""
    if config.weights is None:
        return False
    recorded = read_metadata(config.weights)
    return any(recorded.get(key) != value for key, value in split_metadata(config).items())


def task_parts(config: TaskConfig, info: DataInfo) -> dict[str, object]:
    """What two tasks must have in common to be the same one, as plain JSON: contents of files, never paths."""
    network = config.network
    if is_user_spec(network):
        file, function = split_spec(network, "network")
        network = f"{source_digest(file)}:{function}"
    else:
        network = pin_network(network)
    parts: dict[str, object] = {
        "network": network,
        "weights": None if config.weights is None else _weights_digest(config.weights),
        "data": data_identity(config),
        "mean": info.mean,
        "std": info.std,
        "flip": info.flip,
        "crop": info.crop,
        "search_fraction": config.search_fraction,
        "split_seed": config.split_seed,
        "train_images": config.train_images,
    }
    # Only what older versions refused or read otherwise is added: bytes with class numbers keep the fingerprint under
    # which ledgers have their outcomes.
    if info.pixels != BYTES:
        parts["pixels"] = asdict(info.pixels)
    if info.labels and not config.data.startswith("imagefolder:"):
        parts["labels"] = list(info.labels)
    return parts


def _weights_digest(weights: str) -> str:
    """SHA-256 of the file, and the place in it whose weights are meant."""
    path, entry = split_entry(weights)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest if entry is None else f"{digest}#{entry}"
