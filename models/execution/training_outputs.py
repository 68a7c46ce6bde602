"""What a network returns in training: class scores, or a tuple that begins with them (GoogLeNet, Inception, DSN)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def class_scores(output: Any) -> Tensor:
    """The (N, classes) scores in a network's output; auxiliary ones that follow them are left out.

    Raises:
        TypeError: there are none.
    """
    scores = output
    if isinstance(output, tuple | list) and output:
        scores = output[0]
    elif isinstance(output, Mapping) and output:
        scores = next(iter(output.values()))
    if not isinstance(scores, Tensor):
        raise TypeError(f"the network returns {type(output).__name__} in training, and no class scores")
    return scores
