"""Weights in files: read whatever form they are usually shared in, write safetensors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.errors import UserError, first_line

_NESTED = ("state_dict", "model", "net", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
# Heads that help only while training; checkpoints of googlenet and inception_v3 carry them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_SHOWN = 3  # differing entries named in an error


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into `network`, converting to its precision.

    Raises:
        UserError: no such file, not readable without running code, or entries that differ (the first ones named).
    """
    path = Path(path)
    weights = _unwrapped(_read(path), path)
    needed = network.state_dict()
    weights = {k: v for k, v in weights.items() if k in needed or not k.startswith(_AUXILIARY)}
    differences = _differences(weights, needed)
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise UserError(f"weights {path} do not fit the network: {'; '.join(differences[:_SHOWN])}{more}")
    network.load_state_dict(weights, strict=False)  # what may be missing was checked above


def save_weights(network: nn.Module, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the state dict as safetensors, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory or are not contiguous
    tensors = {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in network.state_dict().items()
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, partial, metadata=dict(metadata))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save_weights` was given; empty for any other kind of checkpoint."""
    path = Path(path)
    _check_exists(path)
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}")


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, KeyError):  # of torch.load's own tables: its text is a bare number
        return UserError(
            f"checkpoint {path} is no file that torch or safetensors wrote; save a state dict with torch.save"
        )
    return UserError(f"checkpoint {path} cannot be read ({first_line(error)}); is it complete?")


def _read(path: Path) -> Any:
    _check_exists(path)
    try:
        if _is_safetensors(path):
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is no file of plain tensors, and nothing else is unpickled; "
            "save a state dict with torch.save(network.state_dict(), file)"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside what was read, without the prefixes that wrappers leave."""
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"checkpoint {path} holds a {type(content).__name__} and no state dict")
    stray = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if stray is not None:
        raise UserError(f"checkpoint {path} is no state dict: its entry {stray!r} is a {type(content[stray]).__name__}")
    weights: dict[str, Tensor] = {str(key): value for key, value in content.items()}
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _differences(weights: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> list[str]:
    """One phrase per entry that differs, in the network's order, what the network does not know last."""
    found = []
    for key, tensor in needed.items():
        if key not in weights:
            # Checkpoints from before PyTorch 0.4.1 lack these counters.
            if not key.endswith("num_batches_tracked"):
                found.append(f"{key} {tuple(tensor.shape)} is missing")
        elif weights[key].shape != tensor.shape:
            found.append(f"{key} is {tuple(weights[key].shape)} where the network has {tuple(tensor.shape)}")
        elif weights[key].is_floating_point() != tensor.is_floating_point():
            found.append(f"{key} holds {weights[key].dtype} where the network has {tensor.dtype}")
    return found + [f"{key} {tuple(weights[key].shape)} is not in the network" for key in weights if key not in needed]
