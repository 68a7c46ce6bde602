"""Checkpoints in the forms that people share, and every way in which one does not fit."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from weight_files import save_weights

from models.checkpoints.loading import load_weights, read_metadata
from models.errors import UserError


def _network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


@pytest.fixture
def trained() -> dict[str, Tensor]:
    """Weights of which every value differs from a fresh network's; halves represent them exactly."""
    state = _network().state_dict()
    return {name: torch.arange(t.numel()).reshape(t.shape).to(t.dtype) + 5 for name, t in state.items()}


def _assert_loaded(path: Path, expected: dict[str, Tensor]) -> None:
    network = _network()
    load_weights(network, path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_usual_forms(tmp_path: Path, trained: dict[str, Tensor], key: str | None, prefix: str) -> None:
    state: dict[str, Any] = {prefix + name: tensor for name, tensor in trained.items()}
    torch.save({key: state, "epoch": 3, "best": 0.9} if key else state, tmp_path / "w.pth")
    _assert_loaded(tmp_path / "w.pth", trained)


def test_legacy_format(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save({"state_dict": trained}, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    _assert_loaded(tmp_path / "w.th", trained)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_by_content(tmp_path: Path, trained: dict[str, Tensor], name: str) -> None:
    save_file(trained, tmp_path / name)
    _assert_loaded(tmp_path / name, trained)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path: Path, trained: dict[str, Tensor], dtype: torch.dtype) -> None:
    torch.save({k: t.to(dtype) if t.is_floating_point() else t for k, t in trained.items()}, tmp_path / "w.pth")
    _assert_loaded(tmp_path / "w.pth", trained)
    network = _network()
    load_weights(network, tmp_path / "w.pth")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_prefix_of_some_entries_is_no_wrapper(tmp_path: Path) -> None:
    network = nn.ModuleDict({"module": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    expected = {k: t + 1 for k, t in network.state_dict().items()}
    torch.save(expected, tmp_path / "w.pth")
    load_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(t, expected[k]) for k, t in network.state_dict().items())


def test_counters_of_old_checkpoints_may_be_missing(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    del trained["1.num_batches_tracked"]
    torch.save(trained, tmp_path / "w.pth")
    _assert_loaded(tmp_path / "w.pth", {**trained, "1.num_batches_tracked": torch.tensor(0)})


def test_auxiliary_heads_are_left_aside(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save({**trained, "aux1.fc.weight": torch.ones(2)}, tmp_path / "w.pth")
    _assert_loaded(tmp_path / "w.pth", trained)


def _refused(path: Path, network: nn.Module | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(network or _network(), path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_mismatch_names_entries_and_shapes(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    del trained["0.bias"]
    trained["extra.weight"] = torch.ones(7)
    trained["3.weight"] = torch.ones(2, 9)
    torch.save(trained, tmp_path / "w.pth")
    message = _refused(tmp_path / "w.pth")
    assert "0.bias (4,) is missing" in message
    assert "3.weight is (2, 9) where the network has (2, 4)" in message
    assert "extra.weight (7,) is not in the network" in message


def test_mismatch_counts_the_rest_and_leaves_the_network_alone(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save(trained, tmp_path / "w.pth")
    network = _network(width=5)
    before = {k: t.clone() for k, t in network.state_dict().items()}
    # All of convolution (2) and norm (4, without the scalar counter), and the linear layer's weight differ: 7.
    assert _refused(tmp_path / "w.pth", network).endswith(" and 4 more")
    assert all(torch.equal(t, before[k]) for k, t in network.state_dict().items())


def test_integers_for_weights(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save({**trained, "0.weight": trained["0.weight"].to(torch.int8)}, tmp_path / "w.pth")
    assert "0.weight holds torch.int8" in _refused(tmp_path / "w.pth")


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch broken-in",)


def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Code()}, tmp_path / "w.pth")
    assert "nothing else is unpickled" in _refused(tmp_path / "w.pth")
    torch.save(_network(), tmp_path / "whole.pth")
    assert "torch.save(network.state_dict(), file)" in _refused(tmp_path / "whole.pth")
    assert not (tmp_path / "broken-in").exists()


def test_missing_empty_cut_off_and_foreign_files(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    assert "there is no checkpoint file" in _refused(tmp_path / "absent.pth")
    (tmp_path / "empty.pth").touch()
    _refused(tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint\n" * 100)
    _refused(tmp_path / "text.pth")
    torch.save(trained, tmp_path / "w.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:900])
    _refused(tmp_path / "cut.pth")
    save_file(trained, tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-8])
    assert "is it complete?" in _refused(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("content", [torch.ones(3), [1, 2], {"epoch": 3}, {}, {"state_dict": {"a": [1]}}])
def test_no_state_dict_inside(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "no state dict" in _refused(tmp_path / "w.pth")


def test_saved_and_read_again(tmp_path: Path) -> None:
    network = _network().to(memory_format=torch.channels_last)
    path = tmp_path / "new" / "w.safetensors"
    save_weights(network, path, {"split_seed": "3"})
    _assert_loaded(path, network.state_dict())
    assert read_metadata(path) == {"split_seed": "3"}
    assert os.listdir(path.parent) == ["w.safetensors"]


def test_shared_weights_are_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    save_weights(network, tmp_path / "w.safetensors", {})
    twin = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    load_weights(twin, tmp_path / "w.safetensors")
    assert torch.equal(twin[1].weight, network[0].weight)


def test_metadata_of_others_is_empty(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save(trained, tmp_path / "w.pth")
    assert read_metadata(tmp_path / "w.pth") == {}
    save_file(trained, tmp_path / "w.safetensors")
    assert read_metadata(tmp_path / "w.safetensors") == {}
