"""An export turned back into a network.

    network = load_compressed("results/my-run/export")

needs neither the ledger nor the dense weights: the dense architecture is built anew, given the allocation's widths and
tables, and filled from `model.safetensors`. Of a user's own task its function builds it, with all that this reads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from methods.base import Compressor, example_input
from methods.registry import create, identify_method, locate_methods
from models.data.images import DataInfo
from models.errors import UserError, first_line
from models.execution.inputs import Inputs
from models.settings import setting_name
from models.task_config import TaskConfig
from models.tasks.build import GIVEN_TASKS
from models.tasks.given_network import load_given_network
from models.tasks.load import load_network
from models.user.code import is_user_spec, split_spec
from models.user.given_networks import give_network
from models.user.spec_names import network_name, network_subject
from search.export.config import CONFIG, EXAMPLE, WEIGHTS, ExportConfig, Pictures, read_config
from search.export.example_file import read_example
from search.export.settings import LOAD
from search.judge.packed_weights import unpack_weights
from search.settings.keywords import takes_keywords


@takes_keywords(LOAD)
def load_compressed(
    folder: str | Path, *, network: str | nn.Module | None = None, method: str | None = None
) -> nn.Module:
    """The network of an export, on the CPU, in evaluation mode, ready to be used or trained on.

    Args:
        folder: what `export` wrote; `config.json` and `model.safetensors` must lie there.
        network: `path/to/file.py:function`, if the network or task is a user's own and its file has moved; or, if it
            was given as a Python object, an `nn.Module` that is built in the same way (its weights do not matter).
        method: `path/to/file.py:MyMethod`, if the method is a user's own and its file has moved.

    Raises:
        UserError: no export, a half-written one, one of a newer version, or a network or method that is not there any
            more.
    """
    folder = Path(folder)
    config = read_config(folder)
    _locate_method(config, folder, method)
    tensors = _read_weights(folder, config)
    compressor = _bind_method(config, folder, _network_spec(config, folder, network))
    try:
        return unpack_weights(compressor, config.allocation, tensors)
    except (RuntimeError, AssertionError, AttributeError, LookupError, ValueError) as error:
        raise UserError(
            f"{folder / WEIGHTS} does not fit {network_subject(config.task.network)} as it is built here "
            f"({first_line(error)}); use the version of its code that it was exported with"
        ) from error


def _locate_method(config: ExportConfig, folder: Path, method: str | None) -> None:
    """Let the registry know the file of a user's method; what an export brings along itself is never executed."""
    if method is not None and identify_method(method)[0] != config.method:
        raise UserError(f"{method} is not {config.method}, by which {folder} was compressed: its content is another")
    places = {identity: Path(place.rpartition(":")[0]) for identity, place in config.method_files.items()}
    locate_methods({
        identity: config.method_files[identity] for identity, file in places.items()
        if file.is_absolute() and file.is_file() and not file.resolve().is_relative_to(folder.resolve())
    })  # fmt: skip


def _read_weights(folder: Path, config: ExportConfig) -> dict[str, Tensor]:
    content = _read_file(folder, WEIGHTS, config)
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({first_line(error)}); export again") from error


def _read_example(folder: Path, config: ExportConfig) -> Inputs:
    return read_example(_read_file(folder, EXAMPLE, config), folder / EXAMPLE)


def _read_file(folder: Path, name: str, config: ExportConfig) -> bytes:
    """The content of one of the export's files, which must be the one that was written."""
    path = folder / name
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {name}; export again with safetensors in {setting_name('formats', '--format')}"
        )
    content = path.read_bytes()  # once: a file that is opened again after its digest may be another one
    recorded = config.files.get(name)
    if recorded is None or hashlib.sha256(content).hexdigest() != recorded.sha256:
        raise UserError(f"{path} is not the file that {CONFIG} describes: half-written or changed; export again")
    return content


def _bind_method(config: ExportConfig, folder: Path, network: str | nn.Module) -> Compressor:
    """The export's method on its architecture with fresh weights, of which nothing will be left."""
    if config.inputs is None:
        dense = load_given_network(network)
        return create(config.method, dense, _read_example(folder, config), config.options)
    task = config.task.model_copy(update={"network": network, "weights": None})
    dense = load_network(task, _data_info(task, config.inputs))
    return create(config.method, dense, example_input(config.inputs.shape), config.options)


def _data_info(task: TaskConfig, pictures: Pictures) -> DataInfo:
    """What the network must look like, without looking at the data."""
    # Flips and crops are of training alone, which asks for the data.
    return DataInfo(task.data, pictures.shape, pictures.classes, pictures.mean, pictures.std, flip=False, crop=0)


def _network_spec(config: ExportConfig, folder: Path, network: str | nn.Module | None) -> str | nn.Module:
    """The name of the network, or where its file (or that of its task) lies; it must be what was exported.

    An export may come from anybody: what it brings along is never executed unless the caller names it.
    """
    recorded = config.network_file
    if isinstance(network, nn.Module):
        if config.inputs is None:
            return network
        spec = give_network(network, config.inputs.shape)
        if spec != config.task.network:
            held = network_subject(config.task.network)
            raise UserError(f"{folder} holds {held}, and {network_name(spec)} computes something else")
        return spec
    if recorded is None:
        if config.inputs is None and config.task.network not in GIVEN_TASKS:
            raise UserError(
                f"the task of {folder} was given as a Python object, which no file holds; give its network, built in "
                "the same way: network=..."
            )
        if is_user_spec(config.task.network):
            raise UserError(f"{folder / CONFIG} names a network file without its digest; export again")
        return config.task.network
    path = Path(recorded.path)
    # A relative path would name whatever lies in the folder that this process happens to run in.
    is_trusted = path.is_absolute() and path.is_file() and not path.resolve().is_relative_to(folder.resolve())
    if network is None and not is_trusted:
        raise UserError(
            f"the network's file {path} is not there any more; say where it is: "
            f"network='path/to/file.py:{recorded.function}'"
        )
    where = network or f"{path}:{recorded.function}"
    file, _ = split_spec(where, "network")
    if file_digest(file) != recorded.sha256:
        raise UserError(f"{file} is not the file that was exported: its content has changed; give the one of that time")
    return where


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
