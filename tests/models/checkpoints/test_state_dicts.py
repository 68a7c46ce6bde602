"""Checkpoints as other people's scripts write them: what is taken out of them, and what is said of it."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import types
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoints.loading import load_weights
from models.data.named_sets import NAMED_SETS
from models.errors import UserError
from models.notices import collect_notices
from models.task_config import TaskConfig
from models.tasks.picture_parts import task_parts


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


State = dict[str, Tensor]


@pytest.fixture
def trained() -> State:
    """Weights of which every value differs from a fresh network's; halves represent them exactly."""
    return {n: torch.arange(t.numel()).reshape(t.shape).to(t.dtype) + 5 for n, t in _network().state_dict().items()}


def _scaled(state: State, factor: int) -> State:
    return {name: tensor * factor for name, tensor in state.items()}


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _loaded(content: Any, folder: Path, expected: State, network: nn.Module | None = None, entry: str = "") -> str:
    """What is said when the content is loaded as a file, which must give the expected weights."""
    torch.save(content, folder / "w.pt")
    network = network or _network()
    with collect_notices() as notices:
        load_weights(network, f"{folder}/w.pt{entry}")
    loaded = network.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    return " ".join(notices)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_nothing_is_said_of_plain_weights(tmp_path: Path, trained: State, prefix: str) -> None:
    assert _loaded(_prefixed(trained, prefix), tmp_path, trained) == ""


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "net.module.", "module.model._orig_mod.", "a.b.c."])
def test_one_prefix_before_every_key(tmp_path: Path, trained: State, prefix: str) -> None:
    said = _loaded({"state_dict": _prefixed(trained, prefix), "epoch": 1}, tmp_path, trained)
    assert "state_dict." in said
    assert "is taken" in said


def test_wrappers_in_the_middle_of_names(tmp_path: Path) -> None:
    network = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2)), "head": nn.Linear(2, 1)})
    expected = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    inside = {
        name.replace("body.", "body.module.").replace("head.", "head._orig_mod."): t for name, t in expected.items()
    }
    _loaded(inside, tmp_path, expected, network)


def test_prefix_that_only_the_network_has(tmp_path: Path, trained: State) -> None:
    network = nn.ModuleDict({"model": _network()})
    _loaded(trained, tmp_path, _prefixed(trained, "model."), network)


@pytest.mark.parametrize(
    "path", [("model",), ("ema", "module"), ("a", "b", "c"), ("state_dict",), ("pytorch-lightning", "x")]
)
def test_nested(tmp_path: Path, trained: State, path: tuple[str, ...]) -> None:
    content: Any = trained
    for key in reversed(path):
        content = {key: content, "epoch": 3, "decay": 0.99}
    assert f"{'.'.join(path)} is taken" in _loaded(content, tmp_path, trained)


def test_a_dictionary_for_each_part(tmp_path: Path) -> None:
    network = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2)), "head": nn.Linear(2, 1)})
    expected = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    parts = {name: {k: t + 1 for k, t in part.state_dict().items()} for name, part in network.items()}
    _loaded({**parts, "epoch": 1}, tmp_path, expected, network)


@pytest.mark.parametrize(("plain", "average"), [("params", "params_ema"), ("model", "model_ema"), ("net", "swa")])
def test_plain_weights_before_averages(tmp_path: Path, trained: State, plain: str, average: str) -> None:
    content = {average: _scaled(trained, 2), plain: trained}
    said = _loaded(content, tmp_path, trained)
    assert f"{plain} is taken" in said
    assert f"{average} fits as well (weights w.pt#{average})" in said
    said = _loaded(content, tmp_path, _scaled(trained, 2), entry=f"#{average}")
    assert "an average over training" in said


def test_average_under_a_prefix_of_the_same_dictionary(tmp_path: Path, trained: State) -> None:
    content = {**_prefixed(_scaled(trained, 2), "ema_model."), **_prefixed(trained, "model.")}
    assert "ema_model fits as well" in _loaded(content, tmp_path, trained)


def test_several_that_differ_are_not_guessed_at(tmp_path: Path, trained: State) -> None:
    content = {"first": trained, "second": _scaled(trained, 2)}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"several sets of weights that fit: first, second; say which one: .*#first"):
        load_weights(_network(), tmp_path / "w.pt")
    _loaded(content, tmp_path, _scaled(trained, 2), entry="#second")
    _loaded({"first": trained, "second": _scaled(trained, 1)}, tmp_path, trained)  # the same values


def test_a_place_that_is_not_there(tmp_path: Path, trained: State) -> None:
    torch.save({"model": trained}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no weights at 'ema'; it has model"):
        load_weights(_network(), f"{tmp_path}/w.pt#ema")


def test_a_place_that_does_not_fit(tmp_path: Path, trained: State) -> None:
    torch.save({"model": trained, "ema": {**trained, "0.bias": torch.ones(9)}}, tmp_path / "w.pt")
    load_weights(_network(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"\(its ema\) do not fit the network: 0.bias is \(9,\)"):
        load_weights(_network(), f"{tmp_path}/w.pt#ema")


def test_files_with_a_mark_in_their_name(tmp_path: Path, trained: State) -> None:
    torch.save({"model": trained}, tmp_path / "run#3.pt")
    for spec in ("run#3.pt", "run#3.pt#model"):
        load_weights(_network(), tmp_path / spec)


def test_the_place_is_part_of_the_task(tmp_path: Path, trained: State) -> None:
    torch.save({"model": trained, "ema": _scaled(trained, 2)}, tmp_path / "w.pt")
    prints = {
        task_parts(TaskConfig(network="small", weights=f"{tmp_path}/w.pt{entry}"), NAMED_SETS["digits"])["weights"]
        for entry in ("", "#model", "#ema")
    }
    assert len(prints) == 3


@pytest.mark.parametrize("name", ["total_ops", "total_params", "0.total_ops", "1.num_batches_tracked", "n_averaged"])
def test_counters_are_left_out(tmp_path: Path, trained: State, name: str) -> None:
    trained.pop(name, None)
    expected = {"1.num_batches_tracked": torch.tensor(0), **trained}
    content = {**trained, name: torch.zeros(1, dtype=torch.float64)} if name not in expected else trained
    said = _loaded(content, tmp_path, expected)
    assert (f"left out: {name}" in said) == (name in content)


def test_counters_that_the_network_does_not_have(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    expected = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    _loaded({**expected, "1.num_batches_tracked": torch.tensor(3)}, tmp_path, expected, network)


def test_averaged_model_of_torch(tmp_path: Path, trained: State) -> None:
    assert "n_averaged" in _loaded({**_prefixed(trained, "module."), "n_averaged": torch.tensor(7)}, tmp_path, trained)


def test_buffers_that_the_network_does_not_save(tmp_path: Path, trained: State) -> None:
    network = _network()
    network.register_buffer("index", torch.arange(3), persistent=False)
    assert "left out: index" in _loaded({**trained, "index": torch.arange(3)}, tmp_path, trained, network)


def test_what_stands_outside_the_prefix_is_left_out(tmp_path: Path, trained: State) -> None:
    content = {"state_dict": {**_prefixed(trained, "model."), "criterion.weight": torch.ones(5)}}
    assert "left out: criterion.weight" in _loaded(content, tmp_path, trained)


def test_what_the_network_does_not_have_under_the_prefix_is_refused(tmp_path: Path, trained: State) -> None:
    """A deeper network holds all layers of a shallower one, and more."""
    torch.save(_prefixed({**trained, "4.weight": torch.ones(2, 2)}, "model."), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"4.weight \(2, 2\) is not in the network"):
        load_weights(_network(), tmp_path / "w.pt")


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, names=["a"], out=pathlib.PosixPath("/tmp/x"), inner=argparse.Namespace()),
    "numpy scalar": np.float64(0.9), "numpy integer": np.int64(3), "numpy array": np.arange(3.0),
    "numpy text": np.str_("x"), "numpy bool": np.bool_(True),
    "path": pathlib.PosixPath("a/b"), "pure path": pathlib.PureWindowsPath("c:/x"),
    "default dictionary": defaultdict(list, a=[1]), "ordered": OrderedDict(a=1), "size": torch.Size([1, 2]),
    "queue": deque([1, 2], maxlen=3), "empty queue": deque(), "nested": defaultdict(dict, a=defaultdict(int, b=1)),
    "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "duration": datetime.timedelta(1),
    "version": torch.torch_version.TorchVersion("2.1"), "set": {1, 2}, "device": torch.device("cpu"),
    "type": torch.float16, "generator": torch.get_rng_state(),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", BESIDE)
def test_harmless_things_beside_the_weights(tmp_path: Path, trained: State, what: str, zipped: bool) -> None:
    torch.save({"model": trained, "x": BESIDE[what]}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    network = _network()
    load_weights(network, tmp_path / "w.pt")
    assert all(torch.equal(t, trained[name]) for name, t in network.state_dict().items())


def test_plain_values_among_the_weights(tmp_path: Path, trained: State) -> None:
    _loaded({**trained, "epoch": 3, "name": "run", "metrics": {"top1": 0.9}}, tmp_path, trained)


def test_numpy_arrays_as_weights(tmp_path: Path, trained: State) -> None:
    _loaded({name: tensor.numpy() for name, tensor in trained.items()}, tmp_path, trained)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_said(tmp_path: Path, trained: State, dtype: torch.dtype) -> None:
    content = {name: t.to(dtype) if t.is_floating_point() else t for name, t in trained.items()}
    assert f"converted from {str(dtype).removeprefix('torch.')} to float32" in _loaded(content, tmp_path, trained)


def test_safetensors_with_a_prefix(tmp_path: Path, trained: State) -> None:
    save_file(_prefixed(trained, "model."), tmp_path / "w.safetensors")
    network = _network()
    load_weights(network, tmp_path / "w.safetensors")
    assert all(torch.equal(t, trained[name]) for name, t in network.state_dict().items())


def test_settings_of_packages_that_are_not_there(
    tmp_path: Path, trained: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's, easydict's: dictionaries with attributes, of which the class is not imported."""
    module = types.ModuleType("easydict")
    module.EasyDict = type("EasyDict", (dict,), {"__module__": "easydict"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", module)
    settings = module.EasyDict(lr=0.1)
    settings.lr = 0.1
    torch.save({"model": trained, "settings": settings}, tmp_path / "w.pt")
    monkeypatch.delitem(sys.modules, "easydict")
    load_weights(_network(), tmp_path / "w.pt")
    assert "easydict" not in sys.modules
