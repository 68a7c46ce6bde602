"""Files that are no checkpoint of the network: each is named in one sentence, nothing in it is run, nothing hangs."""

from __future__ import annotations

import io
import os
import pickle
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoints.loading import load_weights, read_metadata
from models.errors import UserError


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))


def _refusal(path: Path, network: nn.Module | None = None) -> str:
    """The sentence; the network must be as it was."""
    network = network or _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(network, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message
    return message


def _zip(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return content.getvalue()


def _arrays() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    return content.getvalue()


def _array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.ones(3))
    return content.getvalue()


def _tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return content.getvalue()


def _scripted() -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(_network()), content)
    return content.getvalue()


def _exported() -> bytes:
    content = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), content)
    return content.getvalue()


def _saved(**options: Any) -> bytes:
    content = io.BytesIO()
    torch.save(_network().state_dict(), content, **options)
    return content.getvalue()


OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"this is no checkpoint\n", "a text file"),
    "text in another script": (lambda: "кот\n".encode() * 600, "a text file"),
    "json": (lambda: b'{"epoch": 3, "weights": {}}', "a text file"),
    "lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n", "git lfs pull"),
    "annex pointer": (lambda: b"/annex/objects/SHA256E-s1--abc\n", "git annex get"),
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
    "empty": (lambda: b"", "is empty"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(200), "HDF5"),
    "npz": (_arrays, ".npz file"),
    "npy": (_array, "a NumPy array"),
    "tar": (_tar, "a tar archive"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(50), "gzip"),
    "onnx": (lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(50), "an ONNX model"),
    "tensorflow": (lambda: b"\x0a\x00saved_model" + bytes(range(256)), "no file that torch"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(50), "a picture"),
    "keras": (lambda: _zip("config.json", "model.weights.h5"), "a zip archive that torch.save did not write"),
    "scripted": (_scripted, "a TorchScript archive"),
    "exported": (_exported, "a program of torch.export"),
    "cut archive": (lambda: _saved()[:900], "is it complete?"),
    "cut old file": (lambda: _saved(_use_new_zipfile_serialization=False)[:-20], "is it complete?"),
    "zeros": (lambda: bytes(5000), "no file that torch"),
    "noise": (lambda: random.Random(0).randbytes(5000), "no file that torch"),
    "plain pickle": (lambda: pickle.dumps({"a": 1}), "torch.save"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_files_are_named(tmp_path: Path, kind: str) -> None:
    content, said = OTHERS[kind]
    (tmp_path / "w.pt").write_bytes(content())
    assert said in _refusal(tmp_path / "w.pt")


def test_folders_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is a folder" in _refusal(tmp_path)
    for path in (tmp_path / "pipe.pt", Path("/dev/zero")):
        assert "is no regular file" in _refusal(path)
        with pytest.raises(UserError, match="is no regular file"):
            read_metadata(path)
    assert "there is no checkpoint file" in _refusal(tmp_path / "absent.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(_saved())
    (tmp_path / "w.pt").chmod(0)
    assert "cannot be opened: Permission denied" in _refusal(tmp_path / "w.pt")


class _Code:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch broken-in"),
        (os.mkdir, "broken-in"),
        (eval, "open('broken-in', 'w')"),
        (getattr, Path, "touch"),
        (torch.hub.load, "broken-in", "x"),
        (np.load, "broken-in"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_beside_the_weights_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...], zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": _network().state_dict(), "x": _Code(*call)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert "nothing else is unpickled" in _refusal(tmp_path / "w.pt")
    assert not (tmp_path / "broken-in").exists()


class _Settings:
    pass


def test_what_is_pickled_is_named(tmp_path: Path) -> None:
    torch.save(_network(), tmp_path / "w.pt")
    assert "a whole network (torch.nn.modules.container.Sequential)" in _refusal(tmp_path / "w.pt")
    torch.save({"model": _network().state_dict(), "x": _Settings()}, tmp_path / "w.pt")
    assert f"({_Settings.__module__}._Settings)" in _refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_is_a_sentence_or_does_no_harm(tmp_path: Path, zipped: bool) -> None:
    """Bytes changed at random: what still loads has other values at most."""
    good, rng = bytearray(_saved(_use_new_zipfile_serialization=zipped)), random.Random(1)
    for _ in range(150):
        content = bytearray(good)
        for _ in range(rng.choice([1, 1, 8])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "w.pt").write_bytes(content[: rng.choice([len(content), rng.randrange(1, len(content))])])
        with suppress(UserError):
            load_weights(_network(), tmp_path / "w.pt")


def test_damaged_safetensors(tmp_path: Path) -> None:
    save_file(_network().state_dict(), tmp_path / "w.safetensors")
    good, rng = (tmp_path / "w.safetensors").read_bytes(), random.Random(2)
    (tmp_path / "w.safetensors").write_bytes(good[:-3])
    assert "is it complete?" in _refusal(tmp_path / "w.safetensors")
    for _ in range(100):
        content = bytearray(good)
        content[rng.randrange(200)] = rng.randrange(256)
        (tmp_path / "w.safetensors").write_bytes(content)
        with suppress(UserError):
            load_weights(_network(), tmp_path / "w.safetensors")


CONTENTS: dict[str, Any] = {
    "nothing": {}, "a list": [1, 2], "one tensor": torch.ones(3), "numbers": {"epoch": 3}, "none": None,
    "layers as lists": {"state_dict": {"a": [1]}}, "lists of numbers": [[1], (2,)],
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_content_without_weights(tmp_path: Path, kind: str) -> None:
    torch.save(CONTENTS[kind], tmp_path / "w.pt")
    assert "no state dict" in _refusal(tmp_path / "w.pt")


def test_an_optimizer_alone(tmp_path: Path) -> None:
    network = _network()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 1}, tmp_path / "w.pt")
    assert "a dict of optimizer, epoch and no state dict" in _refusal(tmp_path / "w.pt")
    torch.save(optimizer.state_dict(), tmp_path / "w.pt")
    assert "a dict of state, param_groups and no state dict" in _refusal(tmp_path / "w.pt")


def test_another_network_under_a_name(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5, 2))
    torch.save({"model": other.state_dict(), "optimizer": {"buffer": torch.ones(2)}}, tmp_path / "w.pt")
    message = _refusal(tmp_path / "w.pt")
    assert "(its model) do not fit the network: 0.weight is (5, 3, 3, 3) where the network has (4, 3, 3, 3)" in message


def _quantized(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


SPECIAL: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "sparse": (lambda t: t.to_sparse(), "0.bias is a sparse tensor"),
    "sparse rows": (lambda t: t[None].to_sparse_csr(), "0.bias is a sparse tensor"),
    "quantized": (_quantized, "0.bias is a quantized tensor"),
    "meta": (lambda t: t.to("meta"), "0.bias is a meta"),
    "complex": (lambda t: t.to(torch.complex64), "0.bias holds torch.complex64"),
    "integers": (lambda t: t.to(torch.int8), "0.bias holds torch.int8"),
    "a number": (lambda t: 3, "0.bias is a int and no tensor"),
    "nothing": (lambda t: None, "0.bias (4,) is missing"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_tensor_among_good_ones_is_named(tmp_path: Path, kind: str) -> None:
    change, said = SPECIAL[kind]
    state = _network().state_dict()
    torch.save({**state, "0.bias": change(state["0.bias"])}, tmp_path / "w.pt")
    assert said in _refusal(tmp_path / "w.pt")
