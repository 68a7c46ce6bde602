"""Inputs whose values do not matter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def example_input(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Two random inputs (C, H, W) -> (2, C, H, W); noise, because zeros can hide a broken channel."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator).to(device)
