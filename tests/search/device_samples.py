"""Tables of devices that are made up: what a kit's script would write of a device whose times follow a formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.base import Compressor, example_input
from methods.registry import create
from search.kit import write_kit as module
from search.kit.write_kit import write_kit

LayerTime = Callable[[str, int, int], float]
"""Kind of layer, channels in and out -> nanoseconds."""
FIXED = 5000.0  # ns of every network besides its layers


class Chain(nn.Module):
    """Three convolutions and a classifier: widths 32, 64 and 32."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (
            nn.Conv2d(*widths, 3, padding=1) for widths in ((3, 32), (32, 64), (64, 32))
        )
        self.classify = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = layer(x).relu()
        return self.classify(x.mean((2, 3)))


def chain_method(method: str = "l1", classes: int = 10) -> Compressor:
    return create(method, Chain(classes).eval(), example_input((3, 8, 8)))


def kit_record(compressor: Compressor, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "phone") -> Any:
    """A kit whose whole networks were not written, which takes long."""
    monkeypatch.setattr(module, "write_network", lambda compressor, levels, path: path.write_bytes(b""))
    folder.mkdir(parents=True, exist_ok=True)
    return write_kit([compressor], folder, name=name, network="chain", say=lambda text: None)


def table_record(kit: dict[str, Any], layer_time: LayerTime, **changes: Any) -> dict[str, Any]:
    """What the script writes on a device where layers take these times, and networks take their sum and `FIXED`."""
    times, kinds = {}, [layer["kind"] for layer in kit["layers"]]
    for layer in kit["layers"]:
        for point in layer["points"]:
            one = 1000.0 + layer_time(layer["kind"], point["inputs"], point["outputs"])
            more = (point["copies"] - 1) * (one - 1000.0)
            times[point["one"]] = dict.fromkeys(("least", "first", "median"), one)
            times[point["many"]] = dict.fromkeys(("least", "first", "median"), one + more)
    for network in kit["networks"]:
        whole = FIXED + sum(share * layer_time(kinds[kind], i, o) for kind, i, o, share in network["layers"])
        times[network["file"]] = dict.fromkeys(("least", "first", "median"), whole)
    conditions = {"device": "made-up chip", "runtime": "onnxruntime 1.0", "provider": "CPU", "threads": 1, "batch": 1}
    return {"schema": 1, "name": kit["name"], "complete": True, **conditions, "kit": kit, "times": times, **changes}


def write_table(path: Path, record: dict[str, Any]) -> Path:
    path.write_text(json.dumps(record))
    return path


def stepped_time(kind: str, inputs: int, outputs: int) -> float:
    """A kernel that pads both sides to multiples of 16 channels, and takes twice as long beside multiples of 4 in."""
    slow = 2.0 if inputs > 16 and inputs % 4 else 1.0
    positions = 64 if kind.startswith("Conv") else 1
    return slow * 0.5 * positions * float(np.ceil(inputs / 16) * np.ceil(outputs / 16)) * 16
