"""What a task of pictures consists of: the split of its training set, and the fingerprint of all its parts."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import torch
from torch import Tensor

from models.checkpoints.loading import read_metadata, split_entry
from models.data.catalog import data_identity
from models.data.images import DataInfo
from models.data.pixel_scales import BYTES
from models.data.splits import stratified_sample, stratified_split
from models.errors import UserError
from models.networks.catalog import pin_network
from models.task_config import TaskConfig
from models.user.code import is_user_spec, split_spec
from models.user.source_files import source_digest
from models.user.spec_names import data_name


def split_training_set(config: TaskConfig, labels: Tensor) -> tuple[Tensor, Tensor]:
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


def may_have_seen_search_split(config: TaskConfig) -> bool:
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
