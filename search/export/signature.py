"""What a network takes and returns: every tensor by a name, for deployed forms and for the reader of an export."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from models.execution.inputs import Inputs
from models.execution.tensor_leaves import tensor_leaves
from search.candidate import Frozen

IMAGES, LOGITS, OUTPUT = "images", "logits", "output"


class TensorInfo(Frozen):
    """One tensor that a network takes or returns."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """None where the batch decides, or the data."""

    def __str__(self) -> str:
        sizes = ", ".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes})"


class Signature(Frozen):
    """The tensors of a network in the order of its arguments and results."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    positional: tuple[str, ...] = ()
    """Arguments that are given by position, tensors in lists among them."""
    keywords: tuple[str, ...] = ()
    """Arguments that are given by name."""
    any_batch: bool = True
    """Whether deployed forms take any number of inputs at once, or one alone."""


def describe_signature(
    network: nn.Module, inputs: Inputs, *, names: tuple[str, str] | None = None, any_batch: bool = True
) -> Signature:
    """The signature of a network in evaluation mode, told from a batch of two inputs or more.

    Args:
        names: of its only input and its only output.
        any_batch: of any number of inputs, not of one alone; never of lists, as no form takes them of any length.
    """
    any_batch = any_batch and not inputs.listed
    other = inputs.first() if any_batch else inputs.between(1, 2)
    inputs = inputs if any_batch else inputs.first()
    with torch.no_grad():
        outputs, other_outputs = inputs.clone()(network), other.clone()(network)
    arguments = _bind_arguments(network, inputs.args, dict(inputs.kwargs))
    taken = _name_tensors(arguments, (other.args, dict(other.kwargs)), "input")
    returned = _name_tensors(outputs, other_outputs, OUTPUT)
    if names is not None:
        taken, returned = ([info.model_copy(update={"name": name}) for info in infos] for infos, name in zip(
            (taken, returned), names, strict=True))  # fmt: skip
    return Signature(
        inputs=tuple(taken),
        outputs=tuple(returned),
        positional=tuple(name for name in arguments if name not in inputs.kwargs),
        keywords=tuple(inputs.kwargs),
        any_batch=any_batch,
    )


def _bind_arguments(network: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by the names that the network's own code gives them, in the order of the call."""
    positional = [name for name, parameter in inspect.signature(network.forward).parameters.items()
                  if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)]  # fmt: skip
    names = [*positional, *(f"input_{number}" for number in range(len(positional), len(args)))]
    return dict(zip(names, args, strict=False)) | kwargs


def _name_tensors(batch: Any, other: Any, default: str) -> list[TensorInfo]:
    """Every tensor in a structure by its place: `boxes`, `outputs_0`; no sizes that another batch changes."""
    tensors, others = tensor_leaves(batch), tensor_leaves(other)
    places = _tensor_places(batch) if len(tensors) > 1 or not isinstance(batch, Tensor) else [default]
    if len(places) != len(tensors):  # attributes of objects
        places = [f"{default}_{number}" for number in range(len(tensors))]
    infos, taken = [], set[str]()
    for number, (place, tensor) in enumerate(zip(places, tensors, strict=True)):
        name = place if place and not place[0].isdigit() else f"{default}_{place}".rstrip("_")
        name = f"{name}_{number}" if name in taken else name
        taken.add(name)
        alike = len(others) == len(tensors) and others[number].dim() == tensor.dim()
        sizes = others[number].shape if alike else ()
        shape = [size if d < len(sizes) and sizes[d] == size else None for d, size in enumerate(tensor.shape)]
        infos.append(TensorInfo(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(shape)))
    return infos


def _tensor_places(value: Any) -> list[str]:
    leaves, _ = tree_flatten_with_path(dict(value) if isinstance(value, Mapping) else value)
    return [_place_text(path) for path, leaf in leaves if isinstance(leaf, Tensor)]


def _place_text(path: Iterable[Any]) -> str:
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return re.sub(r"\W+", "_", "_".join(keys)).strip("_")
