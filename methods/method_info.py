"""What is known of a method without its code: `methods` lists it, and checks of names and options need no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
