"""The example of a network's inputs beside an export: by it the same channels are found when the network is rebuilt."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError, first_line
from models.execution.inputs import Inputs
from models.settings import setting_name


def write_example(inputs: Inputs, path: Path) -> None:
    """Write inputs as tensors, numbers and names in lists, tuples and dictionaries; UserError for anything else."""
    content = io.BytesIO()
    try:
        torch.save(_as_plain(inputs), content)
        torch.load(io.BytesIO(content.getvalue()), weights_only=True)
    except Exception as error:  # objects of all kinds, which are not read from a file that may come from anybody
        raise UserError(
            "the task's example holds more than tensors, numbers and names in lists and dictionaries, and cannot be "
            f"stored; mend that, or leave safetensors out of {setting_name('formats', '--format')}"
        ) from error
    path.write_bytes(content.getvalue())


def read_example(content: bytes, path: Path) -> Inputs:
    """The inputs in a file; nothing in it is ever executed."""
    try:
        return _from_plain(torch.load(io.BytesIO(content), weights_only=True))
    except Exception as error:  # whatever torch raises on what it has not written
        raise UserError(f"{path} cannot be read ({first_line(error)}); export again") from error


def _as_plain(inputs: Inputs) -> dict[str, Any]:
    training = None if inputs.training is None else _as_plain(inputs.training)
    return {"args": inputs.args, "kwargs": dict(inputs.kwargs), "listed": inputs.listed, "training": training}


def _from_plain(plain: Mapping[str, Any]) -> Inputs:
    training = None if plain["training"] is None else _from_plain(plain["training"])
    return Inputs(tuple(plain["args"]), plain["kwargs"], plain["listed"], training)
