"""Where in a checkpoint's content the weights of a network are: every nested dictionary and every prefix is tried.

A set of weights fits if each tensor that the network needs is there in its shape. What stands beside it decides
nothing, but a tensor under the same prefix that the network does not have belongs to another network and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints.pickled_names import StoredArray

_DEEPEST = 5  # dictionaries in dictionaries
_MOST_NUMBERED = 100  # entries of a list that are looked into: longer ones hold data
_WRAPPERS = frozenset({"module", "_orig_mod"})  # names that DataParallel and torch.compile add, at any place
# Heads that help only while training; checkpoints of googlenet and inception_v3 carry them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_BATCHES = "num_batches_tracked"
# Single numbers that other programs leave among the weights: thop's FLOPs, and counters of averages and steps.
_COUNTERS = frozenset(
    {"total_ops", "total_params", _BATCHES, "n_averaged", "num_updates", "initted", "step", "global_step"}
)
_USUAL = frozenset(
    {"state_dict", "model", "net", "network", "model_state_dict", "model_state", "module", "params", "weights"}
)
_AVERAGES = ("ema", "swa", "avg", "average", "averaged", "shadow", "teacher")
_NO_NETWORK = ("optim", "scheduler", "scaler", "amp", "criterion", "loss")


@dataclass(frozen=True)
class Weights:
    """One place of a checkpoint, held against a network."""

    name: str
    """Keys that lead there and the prefix of its entries, `ema.module`; empty for the content itself."""
    tensors: Mapping[str, Any]
    """By the network's names; what a module keeps by `get_extra_state` is no tensor."""
    left_out: tuple[str, ...]
    differences: tuple[str, ...] = field(default=())
    extra: tuple[str, ...] = field(default=())
    """Names under the prefix that the network does not have, and that belong to another."""

    @property
    def rank(self) -> tuple[bool, bool]:
        """Plain weights before averages of them, usual names before others."""
        words = [word for name in self.name.lower().split(".") for word in (name, *name.split("_"))]
        average = any(word in _AVERAGES for word in words)
        return average, bool(self.name) and not any(word in _USUAL for word in self.name.lower().split("."))

    @property
    def is_average(self) -> bool:
        return self.rank[0]

    def has_same_values(self, other: Weights) -> bool:
        """Whether they hold the same values."""
        return self.tensors.keys() == other.tensors.keys() and all(
            tensor is other.tensors[key] or torch.equal(tensor, other.tensors[key])
            for key, tensor in self.tensors.items()
            if isinstance(tensor, Tensor)
        )


def find_weights(content: Any, network: nn.Module, entry: str | None = None) -> list[Weights]:
    """Every place of a checkpoint's content that holds tensors, as near to the network's names as it can be read.

    Args:
        entry: look at this place and below it alone.

    Returns:
        Those that fit by rank, or, if none does, the others, the one with the most of the network's entries first.
    """
    needed = dict(network.state_dict())
    spare = {name for name, _ in network.named_buffers()} - needed.keys()  # buffers that no state dict holds
    places = list(_tensor_dictionaries(content))
    held = [weights for name, entries in places for weights in _read_prefixes(name, entries, needed, spare)]
    if places and isinstance(content, Mapping) and all(weights.differences for weights in held):
        held += _read_prefixes(
            "", _flatten_content(content), needed, spare
        )  # a dictionary for each part of the network
    if entry is not None:
        held = [weights for weights in held if weights.name == entry or weights.name.startswith(f"{entry}.")]
    fitting = [weights for weights in held if not weights.differences]
    if fitting:
        return sorted(_drop_repeated_places(fitting), key=lambda weights: (weights.rank, weights.name.count(".")))
    return sorted(held, key=lambda weights: (_is_foreign(weights), len(weights.differences)))


def _is_foreign(weights: Weights) -> bool:
    """Whether these tensors are an optimizer's or a loss's, by the name under which they lie."""
    return any(weights.name.lower().startswith(word) for word in _NO_NETWORK)


def _drop_repeated_places(fitting: list[Weights]) -> list[Weights]:
    """Each place once: with and without a wrapper's name, the same entries are read twice."""
    by_name: dict[str, Weights] = {}
    for weights in fitting:
        by_name.setdefault(weights.name, weights)
    return list(by_name.values())


def _tensor_dictionaries(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dictionaries that hold tensors under names, with the keys (or the places in a list) that lead to them."""
    if depth > _DEEPEST:
        return
    if isinstance(content, Mapping):
        entries = {key: value for key, value in content.items() if isinstance(key, str)}
        if any(isinstance(value, Tensor) or _is_numeric_array(value) for value in entries.values()):
            yield name, entries
    for key, value in _nested_entries(content, name):
        yield from _tensor_dictionaries(value, f"{name}.{key}" if name else str(key), depth + 1)


def _nested_entries(content: Any, name: str) -> list[tuple[Any, Any]]:
    """What may hold dictionaries of tensors; by number (folds, pairs) unless it is what an optimizer keeps."""
    last = name.rpartition(".")[2].lower()
    numbered = last != "state" and not last.startswith((*_NO_NETWORK, "opt"))
    if isinstance(content, Mapping):
        return [(key, value) for key, value in content.items() if isinstance(key, str | int if numbered else str)]
    return list(enumerate(content[:_MOST_NUMBERED])) if isinstance(content, list | tuple) and numbered else []


def _flatten_content(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Tensors of nested dictionaries under names joined by dots, `{"body": {"weight": w}}` as `body.weight`."""
    entries: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            continue  # an optimizer's, by number
        if isinstance(value, Mapping) and depth < _DEEPEST:
            entries.update(_flatten_content(value, f"{prefix}{key}.", depth + 1))
        elif isinstance(value, Tensor):
            entries[f"{prefix}{key}"] = value
    return entries


def _read_prefixes(name: str, entries: Mapping[str, Any], needed: Mapping[str, Any], spare: set[str]) -> list[Weights]:
    """One dictionary under every prefix that could be the network's; those that fit, or the nearest."""
    readings = []
    # DataParallel and torch.compile wrap single layers too, so their names are dropped anywhere, not only in front.
    without_wrappers = {_drop_wrappers(key): value for key, value in entries.items()}
    for renamed in (entries, without_wrappers):
        for prefix in _possible_prefixes(renamed, needed):
            inner = "" if prefix.startswith("-") else _drop_wrappers(prefix.removesuffix("."))
            place = ".".join(key for key in (name, inner) if key)
            readings.append(_compare_entries(place, renamed, prefix, needed, spare))
        if any(not reading.differences for reading in readings):
            break
    fitting = [reading for reading in readings if not reading.differences]
    return fitting or sorted(readings, key=lambda reading: len(reading.differences))[:1]


def _drop_wrappers(key: str) -> str:
    """`module.body._orig_mod.weight` as `body.weight`."""
    return ".".join(word for word in key.split(".") if word not in _WRAPPERS)


def _possible_prefixes(entries: Mapping[str, Any], needed: Mapping[str, Any]) -> list[str]:
    """What may stand before the network's names; beginning with `-` what the file leaves out of them."""
    prefixes = {"": None}
    for wanted in list(needed)[:1]:  # the first tensor's name tells every prefix under which the whole network may lie
        prefixes |= {key.removesuffix(wanted): None for key in entries if key.endswith(f".{wanted}")}
    prefixes |= dict.fromkeys(_common_prefixes(entries))
    return [*prefixes, *(f"-{prefix}" for prefix in _common_prefixes(needed))]


def _common_prefixes(names: Mapping[str, Any]) -> list[str]:
    """`a.`, `a.b.`, ... as far as all names begin with it."""
    modules = [name.split(".")[:-1] for name in names if name.rpartition(".")[2] not in _COUNTERS]
    common: list[str] = []
    for level in zip(*modules, strict=False):
        if len(set(level)) > 1:
            break
        common.append((common[-1] if common else "") + level[0] + ".")
    return common


def _compare_entries(
    name: str, entries: Mapping[str, Any], prefix: str, needed: Mapping[str, Any], spare: set[str]
) -> Weights:
    """The entries under a prefix by the network's names, with one phrase for each that differs."""
    if prefix.startswith("-"):
        named, outside = {prefix[1:] + key: value for key, value in entries.items()}, []
    else:
        named = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
        outside = [key for key in entries if not key.startswith(prefix)]
    named = {key: _as_needed(key, _as_tensor(value, needed.get(key)), needed.get(key)) for key, value in named.items()}
    tensors = {key: value for key, value in named.items() if key in needed}
    extra = {key: value for key, value in named.items() if key not in needed}
    harmless = {key for key, value in extra.items() if _is_harmless(key, value, spare)}
    differences = [
        phrase for key, wanted in needed.items() if (phrase := _describe_difference(key, tensors.get(key), wanted))
    ]
    foreign = [key for key in extra if key not in harmless]
    differences += [f"{key} {tuple(extra[key].shape)} is not in the network" for key in foreign]
    # Nested dictionaries are places of their own; numbers and texts beside weights are nobody's.
    said = [key for key in harmless if isinstance(extra[key], Tensor)]
    left_out = [key for key in outside if isinstance(entries[key], Tensor)]
    return Weights(name, tensors, tuple(sorted(said) + left_out), tuple(differences), tuple(foreign))


def _is_numeric_array(value: Any) -> bool:
    return isinstance(value, StoredArray) and value.dtype is not None


def _as_tensor(value: Any, wanted: Any) -> Any:
    """NumPy's arrays as tensors, with their values only where the network needs as many."""
    if not _is_numeric_array(value):
        return value
    fits = isinstance(wanted, Tensor) and math.prod(value.shape) == wanted.numel()
    return value.to_tensor() if fits else value.shape_only()


def _as_needed(key: str, value: Any, wanted: Any) -> Any:
    """A layer's count of batches in the network's form: averages and casts over a state dict leave it as a float."""
    if key.rpartition(".")[2] != _BATCHES or not isinstance(value, Tensor) or not isinstance(wanted, Tensor):
        return value
    if _special_kind(value) is not None or value.is_complex() or value.numel() != 1 or wanted.numel() != 1:
        return value
    return value.detach().to(wanted.dtype).reshape(wanted.shape)


def _is_harmless(key: str, value: Any, spare: set[str]) -> bool:
    """Whether an entry that the network does not have says nothing about which network it is."""
    if not isinstance(value, Tensor):
        return True
    is_counter = key.rpartition(".")[2] in _COUNTERS and value.numel() == 1
    return is_counter or key in spare or key.startswith(_AUXILIARY)


def _describe_difference(key: str, value: Any, wanted: Any) -> str | None:
    """How an entry differs from what the network needs; None if it can be loaded."""
    if not isinstance(wanted, Tensor):  # what a module keeps by get_extra_state
        return None
    if value is None:
        # Checkpoints from before PyTorch 0.4.1 lack these counters.
        counter = key.rpartition(".")[2] == _BATCHES
        return None if counter else f"{key} {tuple(wanted.shape)} is missing"
    if isinstance(value, StoredArray):
        return f"{key} is an array of another type than plain numbers"
    if not isinstance(value, Tensor):
        return f"{key} is a {type(value).__name__} and no tensor"
    if (kind := _special_kind(value)) is not None:
        return f"{key} is a {kind} tensor"
    if value.shape != wanted.shape:
        return f"{key} is {tuple(value.shape)} where the network has {tuple(wanted.shape)}"
    if (value.is_floating_point(), value.is_complex()) != (wanted.is_floating_point(), wanted.is_complex()):
        return f"{key} holds {value.dtype} where the network has {wanted.dtype}"
    return None


def _special_kind(tensor: Tensor) -> str | None:
    """What a tensor is that has no plain values to copy."""
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantized"
    return "meta (shape without values)" if tensor.is_meta else "nested" if tensor.is_nested else None
