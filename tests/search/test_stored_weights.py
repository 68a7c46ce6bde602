"""The weights of a network that was given as an object: in a whole file, with nothing left beside it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from search.files.atomic import AGE
from search.settings.inputs import stored_weights


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    name = stored_weights(network, tmp_path / "first").name
    left = tmp_path / "second" / f".{name}.4711-ab12cd34.tmp"
    left.parent.mkdir()
    left.touch()
    os.utime(left, (left.stat().st_mtime - 2 * AGE,) * 2)
    path = stored_weights(network, tmp_path / "second")
    assert list(path.parent.iterdir()) == [path]
    assert torch.equal(load_file(path)["weight"], network.weight)
