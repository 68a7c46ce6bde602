"""Whether two parts of a task's data share entries, where that can be seen.

Data loaders say what they draw from: one data set through `Subset` or samplers with indices, or tensors. Of anything
else nothing is claimed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from models.errors import UserError

_ALLOWED_SHARE = 0.1  # of equal entries: sensors and drawings repeat themselves, and hands label things twice


def check_overlap(parts: Mapping[str, Any]) -> None:
    """UserError if two data loaders draw the same entries.

    Args:
        parts: loaders by the name that a message calls them by.
    """
    for (name, loader), (other_name, other) in itertools.combinations(parts.items(), 2):
        if not (_draws_are_known(loader) and _draws_are_known(other)):
            continue
        source, indices = entries_of(loader)
        other_source, other_indices = entries_of(other)
        if source is None or other_source is None:
            continue
        if source is other_source:
            shared, smaller = len(set(indices) & set(other_indices)), min(len(indices), len(other_indices))
            allowed = 0.0
        else:
            digests, other_digests = _tensor_digests(source, indices), _tensor_digests(other_source, other_indices)
            shared, smaller = len(digests & other_digests), min(len(digests), len(other_digests))
            allowed = _ALLOWED_SHARE * smaller
        if shared > allowed:
            raise UserError(
                f"the task's {name} and {other_name} data overlap: {shared:,} of {smaller:,} entries are in both; "
                "hold out data that are in no other part"
            )


def _draws_are_known(loader: Any) -> bool:
    """Whether its sampler has indices or draws all entries; one over batches that is not torch's own may draw any."""
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    if type(batch_sampler) not in (type(None), BatchSampler):
        return False
    return hasattr(sampler, "indices") or type(sampler) in (type(None), RandomSampler, SequentialSampler)


def entries_of(loader: Any) -> tuple[Any, list[int]]:
    """The data set at the bottom of a loader, and which of its entries are drawn; None if that cannot be seen."""
    data = getattr(loader, "dataset", loader)
    indices = getattr(getattr(loader, "sampler", None), "indices", None)
    while hasattr(data, "dataset") and hasattr(data, "indices"):  # torch.utils.data.Subset, perhaps of another one
        indices = list(data.indices) if indices is None else [data.indices[index] for index in indices]
        data = data.dataset
    if not hasattr(data, "__len__"):
        return None, []
    return data, [int(index) for index in (range(len(data)) if indices is None else indices)]


def _tensor_digests(data: Any, indices: list[int]) -> set[bytes]:
    """Of the entries of a `TensorDataset`; empty for other data sets, whose entries may be drawn at random."""
    tensors = getattr(data, "tensors", ())
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or not tensors:
        return set()
    rows = [tensor.detach().cpu() for tensor in tensors]
    return {_row_digest([tensor[index] for tensor in rows]) for index in indices}


def _row_digest(tensors: list[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy lacks bfloat16
    return digest.digest()
