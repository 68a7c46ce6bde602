"""Packed weights of compressed networks: the judge writes them; verification, export and loading read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor
from search.candidate import Candidate
from search.files.atomic import atomic_write

_BUFFER = "buffer:"  # before the names of buffers and other tensors that a state dict leaves out


def pack_weights(compressor: Compressor, network: nn.Module) -> dict[str, Tensor]:
    """The packed weights, tied ones once, and what no state dict holds: which channels a padded shortcut passes on
    follows from the dense weights, which are not there any more when the file is read.
    """
    stored = network.state_dict().keys()
    extra = {name: buffer for name, buffer in network.named_buffers() if name not in stored}
    extra |= {name: _attribute_of(network, name) for name in compressor.unregistered_tensors}
    buffers = {f"{_BUFFER}{name}": b.detach().cpu().contiguous() for name, b in extra.items()}
    packed, first_names = compressor.pack(network), _first_names(network)
    tied = {name: first for name, first in _first_names(compressor.network).items() if first_names.get(name) == first}
    once = {name: tensor for name, tensor in packed.items() if tied.get(name) not in packed}
    return _copy_shared_memory(once | buffers)


def _first_names(network: nn.Module) -> dict[str, str]:
    """Every name of a parameter but its first one -> the first one."""
    first_names = {id(parameter): name for name, parameter in network.named_parameters()}
    names = {name: first_names[id(parameter)] for name, parameter in network.named_parameters(remove_duplicate=False)}
    return {name: first for name, first in names.items() if name != first}


def _copy_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, a copy of each that shares its memory with another: safetensors refuses to write those."""
    addresses: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in addresses else tensor
        addresses.add(address)
    return separate


def unpack_weights(compressor: Compressor, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The inverse of `pack_weights`, also for a compressor bound to a network with other weights."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BUFFER)}
    tied = _first_names(compressor.network).items()
    weights |= {name: weights[first] for name, first in tied if first in weights and name not in weights}
    network = compressor.unpack(allocation, weights)
    for name, tensor in tensors.items():
        if name.startswith(_BUFFER):
            owner, _, buffer = name.removeprefix(_BUFFER).rpartition(".")
            device = _attribute_of(network, name.removeprefix(_BUFFER)).device
            setattr(network.get_submodule(owner), buffer, tensor.to(device))
    return network.eval()


def _attribute_of(network: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(owner), leaf)
    return tensor


def save_compressed(
    folder: Path, candidate: Candidate, allocation: Allocation, network: nn.Module, compressor: Compressor, task: str
) -> None:
    """Write the packed weights of a judged network as `<key>.safetensors`, its candidate in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"candidate": candidate.model_dump_json(), "allocation": str(allocation)}
    packed = safetensors.torch.save(pack_weights(compressor, network), metadata)
    atomic_write(folder / f"{candidate.key(task)}.safetensors", packed)
