"""Checkpoints of older scripts: pairs and folds by number, and counters in another form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.loading import load_weights
from models.errors import UserError

State = dict[str, Tensor]


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def trained() -> State:
    """Weights of which every value differs from a fresh network's."""
    return {n: torch.arange(t.numel()).reshape(t.shape).to(t.dtype) + 5 for n, t in _network().state_dict().items()}


def _optimizer() -> dict[str, Any]:
    network = _network()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def _assert_loads(content: Any, folder: Path, expected: State, entry: str = "") -> None:
    torch.save(content, folder / "w.pt")
    network = _network()
    load_weights(network, f"{folder}/w.pt{entry}")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "pair": lambda s: (s, _optimizer()),
    "list": lambda s: [s],
    "pair with the optimizer first": lambda s: [_optimizer(), s],
    "list under a name": lambda s: {"models": [s], "optimizers": [_optimizer()]},
    "fold": lambda s: {3: {"model": s, "optimizer": _optimizer()}},
    "pair in a pair": lambda s: (1, ("run", {"model": s})),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_under_a_number(tmp_path: Path, trained: State, layout: str) -> None:
    _assert_loads(LAYOUTS[layout](trained), tmp_path, trained)


@pytest.mark.parametrize("kind", [tuple, list, lambda sets: dict(enumerate(sets))])
def test_numbers_say_which(tmp_path: Path, trained: State, kind: Callable[[Any], Any]) -> None:
    other = {name: tensor * 2 for name, tensor in trained.items()}
    content = kind([trained, other])
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"several sets of weights that fit: 0, 1; say which one: .*#0"):
        load_weights(_network(), tmp_path / "w.pt")
    _assert_loads(content, tmp_path, trained, "#0")
    _assert_loads(content, tmp_path, other, "#1")


def test_a_pair_that_does_not_fit(tmp_path: Path, trained: State) -> None:
    torch.save(({**trained, "0.bias": torch.ones(9)}, _optimizer()), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"\(its 0\) do not fit the network: 0.bias is \(9,\)"):
        load_weights(_network(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    "change",
    [lambda t: t.reshape(1), lambda t: t.float(), lambda t: t.half().reshape(1, 1), lambda t: t.reshape(1).numpy()],
)
def test_counters_of_batches_in_another_form(tmp_path: Path, trained: State, change: Callable[[Tensor], Any]) -> None:
    content = {name: change(tensor) if "num_batches" in name else tensor for name, tensor in trained.items()}
    _assert_loads(content, tmp_path, trained)


def test_counters_of_several_numbers_are_refused(tmp_path: Path, trained: State) -> None:
    torch.save({**trained, "1.num_batches_tracked": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"1.num_batches_tracked is \(2,\)"):
        load_weights(_network(), tmp_path / "w.pt")
