"""Of many reasons the one that is told is the one that explains most."""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from models.errors import commonest_reason
from search.engine.prepare_method import weightiest_reason


def test_the_reason_of_most_weights_is_told() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 256, 3))
    bound = SimpleNamespace(network=network, skipped={"0": "it is small", "1": "it is small", "2": "it is an output"})
    assert weightiest_reason(bound) == "it is an output"
    joined = {f"l1:{layer}": reason for layer, reason in bound.skipped.items()}
    assert weightiest_reason(SimpleNamespace(network=network, skipped=joined)) == "it is an output"
    assert weightiest_reason(SimpleNamespace(network=network, skipped={})) is None


def test_the_commonest_reason() -> None:
    assert commonest_reason(["one", "other", "other"]) == "other"
    assert commonest_reason(["one", "other"]) == "one"
