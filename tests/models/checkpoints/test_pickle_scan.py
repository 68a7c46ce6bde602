"""Calls in pickles that take memory at will are refused before they are made; those that picklers write are not."""

from __future__ import annotations

import _codecs
import collections
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.loading import load_weights, read_metadata
from models.errors import UserError

_SIZE = 2**20
_FORMS = [True, False]  # as torch.save has written since 1.6, and before


class Call:
    """An object whose pickle is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


CALLS = {
    "size": Call(bytearray, _SIZE),
    "name from the memo": [Call(bytearray, "a", "latin1"), Call(bytearray, _SIZE)],
    "computed size": Call(bytearray, Call(collections.Counter)),
    "chain of codecs": Call(_codecs.encode, Call(_codecs.encode, Call(_codecs.encode, "a", "latin1"), "hex"), "hex"),
    "tensor": Call(torch.Tensor, _SIZE),
    "tensor of a type": Call(torch.FloatTensor, _SIZE, 2),
    "storage": Call(torch.UntypedStorage, _SIZE),
    "by another function": Call(torch._tensor._rebuild_from_type_v2, bytearray, Tensor, (_SIZE,), {}),
    "tensor by another": Call(torch._tensor._rebuild_from_type_v2, torch.Tensor, Tensor, (_SIZE,), {}),
}


def _network() -> nn.Module:
    return nn.Linear(2, 3)


@pytest.mark.parametrize("new_form", _FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_calls_that_take_memory_are_refused(tmp_path: Path, name: str, new_form: bool) -> None:
    path = tmp_path / "w.pt"
    content = {"weights": _network().state_dict(), "extra": CALLS[name]}
    torch.save(content, path, _use_new_zipfile_serialization=new_form)
    with pytest.raises(UserError, match=r"w.pt calls [\w.]+ in a way that weights do not need and that can take any"):
        load_weights(_network(), path)
    assert read_metadata(path) == {}


@pytest.mark.parametrize("new_form", _FORMS)
def test_what_picklers_write_beside_weights_is_read(tmp_path: Path, new_form: bool) -> None:
    network, weights = _network(), _network().state_dict()
    extra = [
        bytearray(b"ab\xff"), bytearray(), b"ab\xff", b"", {1, 2}, 1 + 2j, collections.Counter("aab"),
        torch.get_rng_state(), torch.Size([1, 2]), torch.ones(2, 2).to_sparse(), random.getstate(), "text", 2**70,
        nn.Parameter(torch.ones(2)), torch.optim.SGD(network.parameters(), 0.1).state_dict(), torch.device("cpu"),
    ]  # fmt: skip
    torch.save({"weights": weights, "extra": extra}, tmp_path / "w.pt", _use_new_zipfile_serialization=new_form)
    load_weights(network, tmp_path / "w.pt")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("record", ["w/data.pkl", "w/data/0"])
def test_an_archive_that_unpacks_to_far_more_than_it_is(tmp_path: Path, record: str) -> None:
    torch.save(_network().state_dict(), tmp_path / "sound.pt")
    with zipfile.ZipFile(tmp_path / "sound.pt") as sound, zipfile.ZipFile(tmp_path / "w.pt", "w") as bomb:
        for name in sound.namelist():
            content = sound.read(name)
            place = name.replace("sound/", "w/", 1)
            filled = content + bytes(2**22) if place == record else content
            bomb.writestr(place, filled, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"w.pt would unpack to more than 100 times its size"):
        load_weights(_network(), tmp_path / "w.pt")
