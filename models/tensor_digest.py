"""A short digest of what tensors hold, by which arrays, weights and networks given as objects are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of tensors with their names, types and shapes; 16 digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
