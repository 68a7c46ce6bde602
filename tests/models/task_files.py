"""Files of a small task: images, and a user's networks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.task_config import TaskConfig


def write_task_files(folder: Path) -> Path:
    """An npz file of 3×8×8 images and a user's network for it."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    np.savez(folder / "d.npz", x_train=images, y_train=np.arange(60) % 3, x_test=images[:9], y_test=np.arange(9) % 3)
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "def build(classes, channels):\n"
        "    body = nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*body, nn.Linear(4, classes))\n"
        "def rgb(classes):\n    return build(classes, 3)\n"
        "def wide(classes):\n    return build(classes + 1, 3)\n"
        "def pair(classes):\n"
        "    class Pair(nn.Module):\n        def forward(self, x): return x, x\n"
        "    return Pair()\n"
    )
    return folder


def task_config(files: Path, **changes: Any) -> TaskConfig:
    fields = {"network": f"{files}/net.py:build", "data": f"npz:{files}/d.npz", "search_fraction": 0.2, **changes}
    return TaskConfig.model_validate(fields)
