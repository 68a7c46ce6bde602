"""What Python code gives instead of names: networks, arrays and data sets, turned into a task's plain configuration.

Images and weights are written once below `<results>/given/`, named by their content, so that workers, a later resume
and the command line find them; a network itself stays an object (`models.user.given_networks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from models.checkpoints.writing import weights_encoder
from models.data.array_checks import ARRAY_NAMES, check_arrays
from models.data.catalog import data_info
from models.data.dataset_objects import DATA_FORMS, dataset_arrays
from models.errors import UserError
from models.task import Task
from models.task_config import TaskConfig
from models.tasks.build import give_task
from models.tensor_digest import digest_tensors
from models.user.given_networks import give_network, given_network
from models.user.spec_names import ARRAYS, GIVEN_FOLDER, network_name, objects_name, task_name
from search.files.atomic import atomic_file, atomic_write, report_unwritable
from search.settings.new_config import new_task_config

Network = str | Path | nn.Module
Data = str | Path | Sequence[Any]


def task_of(
    network: Network | None,
    data: Data | None,
    *,
    results: str,
    weights: str | None = None,
    task: str | Path | Task | None = None,
    **fields: Any,
) -> TaskConfig:
    """The configuration of a task given by names or objects; `fields` as `new_task_config` takes them."""
    if task is not None:
        if not isinstance(task, str | Path | Task):
            given = f"that is the class {task.__name__}" if isinstance(task, type) else f"of type {type(task).__name__}"
            raise UserError(f"task {given} is not understood; give a models.task.Task, or path/to/file.py:function")
        own = give_task(task) if isinstance(task, Task) else str(task)
        brought = [None if value is None else str(value) for value in (network, weights, data)]
        return new_task_config(
            network=brought[0], weights=brought[1], data=brought[2], task=own, results=results, **fields
        )
    folder = Path(results) / GIVEN_FOLDER
    spec = None if data is None else data_spec(data, folder)
    chosen = {"weights": weights, "data": spec, "results": results, **fields}
    if network is not None and not isinstance(network, str | Path | nn.Module):
        raise UserError(
            f"network of type {type(network).__name__} is not understood; give a name, path/to/file.py:function, "
            "or a torch.nn.Module"
        )
    if not isinstance(network, nn.Module):
        return new_task_config(network=None if network is None else str(network), **chosen)
    if spec is None:
        raise UserError(f"data None does not go with network {type(network).__name__}, an object; {DATA_FORMS}")
    # The shape of its inputs is the data's, which any network's task can tell.
    shape = data_info(new_task_config(**{**chosen, "network": "small", "weights": None})).shape
    name = give_network(network, shape)
    if weights is None:
        chosen["weights"] = str(stored_weights(given_network(name), folder))
    return new_task_config(network=name, **chosen)


def check_same(network: Network | None, task: TaskConfig, given: str | Path | Task | None = None) -> None:
    """Make a run's network or task known again, if it was given as an object.

    Raises:
        UserError: `network` computes something else than the run's, or `given` is another task.
    """
    if isinstance(given, Task) and (name := give_task(given)) != task.task:
        raise UserError(
            f"{task_name(name)} is not the run's: its code or its network's weights differ; "
            "give one that is built in the same way"
        )
    if not isinstance(network, nn.Module):
        return
    spec = give_network(network, data_info(task).shape)
    if spec != task.network:
        raise UserError(
            f"{network_name(spec)} is not the run's, {network_name(task.network)}: it computes something else; "
            "give one that is built in the same way (its weights do not matter, the run has its own)"
        )


def data_spec(data: Data, folder: Path) -> str:
    """The name of a data set; arrays and data sets given as objects are written into `folder` first."""
    if isinstance(data, str | Path):
        return str(data)
    if not isinstance(data, tuple | list) or len(data) not in (2, len(ARRAY_NAMES)):
        raise UserError(f"data of type {type(data).__name__} is not understood; {DATA_FORMS}")
    if len(data) == 2:
        name = type(data[0]).__name__
        arrays = dataset_arrays(*data)
    else:
        name, arrays = ARRAYS, list(data)
    checked = check_arrays(dict(zip(ARRAY_NAMES, arrays, strict=True)), objects_name(name))
    path = folder / f"{name}-{checked.content_digest()}.npz"
    if not path.exists():
        with (
            report_unwritable(path, "choose another folder with results=... or free space"),
            atomic_file(path) as file,
        ):
            np.savez(file, **checked.as_given())  # type: ignore[arg-type]
    return f"npz:{path}"


def stored_weights(network: nn.Module, folder: Path) -> Path:
    """The file that holds the weights of an object, written unless it is there."""
    state = network.state_dict()
    stray = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if stray is not None:
        raise UserError(f"{type(network).__name__}'s state {stray!r} is no tensor; networks with such are not taken")
    path = folder / f"{type(network).__name__}-{digest_tensors(state.items())}.safetensors"
    if not path.exists():
        with report_unwritable(path, "choose another folder with results=... or free space"):
            atomic_write(path, weights_encoder(path)(network, {}))
    return path
