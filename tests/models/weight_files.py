"""Files of weights for tests, as the project writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from models.checkpoints.writing import weights_encoder


def save_weights(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights_encoder(path)(network, metadata))
