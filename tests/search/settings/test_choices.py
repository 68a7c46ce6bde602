"""Names and devices that are refused before anything is read, loaded or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.errors import UserError
from search import api


class Untouchable(nn.Module):
    """A network that fails the test if it is run, where its shape or weights are read."""

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        pytest.fail("the network was run")


class UntouchableData(list[Any]):
    """Data that fail the test if they are looked at."""

    def __len__(self) -> int:
        pytest.fail("the data were read")


MISTAKES = [
    (api.search, {"strategy": ","}, "names nothing"),
    (api.search, {"strategy": "acra-unifrom"}, "unknown strategy 'acra-unifrom'"),
    (api.search, {"method": "l3"}, "unknown method 'l3'"),
    (api.search, {"device": "cuda:99"}, "device 'cuda:99' is not there"),
    (api.plan, {"strategy": "acra-unifrom"}, "unknown strategy"),
    (api.plan, {"device": "cuda:99"}, "device 'cuda:99' is not there"),
    (api.compare, {"strategies": [","]}, "names nothing"),
    (api.compare, {"methods": ","}, "names nothing"),
    (api.compare, {"methods": "l1,l3"}, "unknown method 'l3'"),
    (api.compare, {"device": "tpu"}, "device 'tpu' is not known"),
    (api.train, {"device": "cuda:99"}, "device 'cuda:99' is not there"),
]


@pytest.mark.parametrize(("call", "settings", "message"), MISTAKES)
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "objects"])
def test_mistakes_are_refused_before_network_data_or_baseline_are_touched(
    call: Callable[..., Any], settings: dict[str, Any], message: str, embedded: bool, tmp_path: Path
) -> None:
    if call is api.train:
        settings = {**settings, "out": tmp_path / "w.pt"}
    task: tuple[Any, ...] = () if embedded else (Untouchable(), UntouchableData())
    if call is not api.plan:
        settings = {**settings, "show": False}
    with pytest.raises(UserError, match=message):
        call(*task, **settings, results=tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [api.export, api.verify])
def test_a_missing_device_is_said_before_a_run_is_looked_for(call: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="device 'cuda:99' is not there"):
        call("no-such-run", device="cuda:99")


def test_other_settings_are_checked_before_the_baseline_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="target"):
        api.search(targets="half", results=tmp_path / "results", show=False)
    assert not [*tmp_path.rglob("*.safetensors")]
