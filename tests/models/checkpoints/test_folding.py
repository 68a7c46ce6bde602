"""Checkpoints whose weights were kept in parts: the call that folds them is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from models.checkpoints.loading import load_weights
from models.errors import UserError


def make_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


PARTS: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), r"prune.remove\(layer, 'weight'\)"),
    "pruned bias": (lambda layer: prune.l1_unstructured(layer, "bias", 0.5), r"prune.remove\(layer, 'bias'\)"),
    "weight norm": (weight_norm, r"remove_weight_norm\(layer, 'weight'\)"),
    "spectral norm": (spectral_norm, r"remove_spectral_norm\(layer, 'weight'\)"),
    "parametrized": (parametrizations.weight_norm, r"remove_parametrizations\(layer, 'weight'\)"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_weights_in_parts_are_told_what_folds_them(tmp_path: Path, kind: str) -> None:
    change, said = PARTS[kind]
    network = make_network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older forms of weight norm and spectral norm are deprecated
        change(network[0])
    torch.save({"model": network.state_dict()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=f"{said} on each such layer before saving"):
        load_weights(make_network(), tmp_path / "w.pt")
