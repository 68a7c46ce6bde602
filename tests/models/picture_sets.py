"""A small folder of pictures, and what is read of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.data.catalog import Data, load_data
from models.notices import collect_notices
from models.task_config import TaskConfig

SIZE = 16
RANDOM = np.random.default_rng(0)


def write_pictures(folder: Path) -> Path:
    """Twelve training and six test pictures of three classes."""
    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog", "owl"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = RANDOM.integers(0, 256, (20, 18, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def config(folder: Path) -> TaskConfig:
    return TaskConfig(network="resnet20", data=f"imagefolder:{folder}@{SIZE}", mean=(0,) * 3, std=(1,) * 3)


def read(folder: Path) -> tuple[Data, list[str]]:
    """The data, and what was said of them."""
    with collect_notices() as notices:
        data = load_data(config(folder), torch.device("cpu"))
    return data, notices


def first_test_image(folder: Path) -> Tensor:
    return next(read(folder)[0].test.batches(1))[0][0]
