"""GPUs and clusters that are not there are refused before Ray is started."""

from __future__ import annotations

import socket

import pytest
import torch

from models.errors import UserError
from search.dispatch.availability import check_resources
from search.dispatch.contract import Resources


@pytest.mark.parametrize(
    ("there", "asked", "sentence"),
    [
        (0, 0.5, "0.5 GPUs .* no machine here has more than 0 GPUs"),
        (1, 2.0, "2 GPUs .* no machine here has more than 1 GPU;"),
        (1, 1.0, None),
        (0, 0.0, None),
    ],
)
def test_gpus_of_this_machine(monkeypatch: pytest.MonkeyPatch, there: int, asked: float, sentence: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    resources = Resources(workers=2, gpus_per_worker=asked)
    if sentence is None:
        check_resources(resources)
    else:
        with pytest.raises(UserError, match=sentence):
            check_resources(resources)


def test_an_address_where_somebody_listens_and_one_where_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's GPUs are known only once it was joined, so none of this machine are missed."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_resources(Resources(workers=1, gpus_per_worker=1.0, ray_address=address))
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}'"):
        check_resources(Resources(workers=1, ray_address=address))
