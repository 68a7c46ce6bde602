"""Weights as the bytes of a file, in the form that the file's name stands for.

What `.pt` means is a state dict that `torch.save` wrote: `network.load_state_dict(torch.load(file))` works as it does
with anybody's. What a checkpoint of ours records besides (the split that it has not seen) lies where PyTorch keeps the
versions of modules, in the state dict's `_metadata`: loading passes over names there that are no module's.
"""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from models.checkpoints.pickle_scan import check_pickle_calls
from models.errors import UserError

_RECORD = "ratio-search"  # among the names of modules in `_metadata`
Encode = Callable[[nn.Module, Mapping[str, str]], bytes]


def weights_encoder(path: Path) -> Encode:
    """What turns a network into the content of a file of this name; UserError for an ending that stands for no form."""
    encode = _ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise UserError(
            f"weights cannot be written to {path}: its name must end in .safetensors, or in .pt, .pth or .th for what "
            "torch.save writes"
        )
    return encode


def torch_metadata(path: Path) -> dict[str, str]:
    """What an encoder was given, of a file that `torch.save` wrote; empty if it is another's."""
    if not zipfile.is_zipfile(path):  # what torch wrote before 1.6 is none of ours
        return {}
    try:
        check_pickle_calls(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # loading the weights says what is wrong with the file
        return {}
    record = getattr(content, "_metadata", {}).get(_RECORD)
    return {str(name): str(value) for name, value in record.items()} if isinstance(record, dict) else {}


def _as_safetensors(network: nn.Module, metadata: Mapping[str, str]) -> bytes:
    return safetensors.torch.save(tensors_on_cpu(network), dict(metadata))


def _as_torch_file(network: nn.Module, metadata: Mapping[str, str]) -> bytes:
    state_dict = network.state_dict()
    state: OrderedDict[str, Any] = OrderedDict(state_dict | tensors_on_cpu(network))  # with what modules keep besides
    versions = getattr(state_dict, "_metadata", {})
    state._metadata = OrderedDict({**versions, _RECORD: dict(metadata)})  # type: ignore[attr-defined]
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def tensors_on_cpu(network: nn.Module) -> OrderedDict[str, Tensor]:
    """The tensors of the state dict, contiguous and each with memory of its own: safetensors refuses what is shared.

    What a module keeps by `get_extra_state` is no tensor, and is not among them.
    """
    return OrderedDict(
        (name, value.detach().cpu().clone(memory_format=torch.contiguous_format))
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor)
    )


_ENCODERS: dict[str, Encode] = {
    ".safetensors": _as_safetensors,
    ".pt": _as_torch_file,
    ".pth": _as_torch_file,
    ".th": _as_torch_file,
}
