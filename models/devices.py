"""Where networks run."""

from __future__ import annotations

import re

import torch

from models.errors import UserError
from models.wording import plural


def pick_device(name: str | None = None) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; None takes a GPU if there is one. UserError if it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"device {name!r} is not known; use cpu, cuda or cuda:N")
    device = torch.device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        there = plural(count, "GPU") if count else "no GPU"
        raise UserError(f"device {name!r} is not there: this machine has {there}")
    return device
