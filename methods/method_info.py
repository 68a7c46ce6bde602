"""What is known of a method without its code: `methods` lists it, and checks of names and options need no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PLAIN_GAINS = "less work on every runtime, and less time where the widths suit its kernels"
TABLE_GAINS = "size, not time: PyTorch, ONNX Runtime and every other runtime run its tables as dense kernels"


@dataclass(frozen=True)
class MethodInfo:
    """What a method is and can do. Capabilities are data, so that no caller branches on a name."""

    name: str
    summary: str
    source: str  # paper or formula
    plain_layers: bool = True  # the result is made of ordinary dense layers, whose count of FLOPs is that of torch
    needs_calibration: bool = False  # `calibrate` must see batches before `compress` (Taylor)
    learns_allocation: bool = False  # `learned` finds the widths while training (ResRep)
    has_centroids: bool = False  # `centroids` gives codebooks to draw
    place: Literal["first", "second"] | None = None  # in a composition (`graph/removal.py`); None: never in one
    options: Mapping[str, Any] = field(default_factory=dict)  # option -> default

    @property
    def gains(self) -> str:
        """What a network compressed by it gains, and on which runtime."""
        return PLAIN_GAINS if self.plain_layers else TABLE_GAINS
