"""Networks as people write them come through the judge without a failed candidate, or are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.errors import UserError
from models.task_config import TaskConfig
from models.tasks.load import check_trainable, load_task
from search import api
from search.candidate import Candidate
from search.judge.bind import bind_method
from search.judge.evaluate import Evaluator
from search.recipe import Recipe

NETWORKS = Path(__file__).with_name("user_networks.py")
RECIPE = Recipe(epochs=1, batch_size=16, lr=0.01, recalibration_images=32)
COMPLETE = (
    "flatten_linear", "data_parallel", "compiled", "wrapped_inside", "averaged", "sync_norm", "norm_variants", "lazy",
    "frozen_stem", "half", "auxiliary_head", "branch_on_data", "unsaved_buffer", "eval_takes_loader",
    "train_is_a_loop", "train_returns_nothing", "volumes",
)  # fmt: skip
REFUSED = {
    "scripted": "is a TorchScript program",
    "scripted_inside": "is a TorchScript program",
    "on_meta": "is on the meta device",
    "without_parameters": "has no parameters",
    "no_module": "must return a torch.nn.Module",
    "stops": "Stop: enough",
    "exits": r"it calls sys.exit\(3\)",
    "exits_when_built": "failed: SystemExit: no licence",
    "stops_when_built": "failed: Stop: enough",
    "recurses": "RecursionError",
    "two_inputs": "missing 1 required positional argument: 'meta'",
    "two_outputs": "returns tuple for one image",
    "one_at_a_time": "takes one of the 3×16×16 images of .* but not 2 at once",
    "one_dimensional": "cannot take the 3×16×16 images",
}
UNTRAINABLE = {
    "all_frozen": "none of its parameters takes a gradient",
    "needs_targets": "fails in training mode: ValueError: targets are needed",
    "no_scores_in_training": r"returns \(\) for 2 images in training",
}
NOTICED = {
    "data_parallel": "DataParallel taken off",
    "compiled": "torch.compile taken off",
    "averaged": "AveragedModel and DataParallel taken off",
    "half": "holds float16; it is worked on in float32",
    "auxiliary_head": "returns a tuple in training",
    "train_is_a_loop": "TrainIsALoop does not switch its mode",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noise of three classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("data") / "d.npz"
    labels = np.arange(60) % 3
    np.savez(path, x_train=images[:48], y_train=labels[:48], x_test=images[48:], y_test=labels[48:])
    return f"npz:{path}"


def _config(function: str, data: str) -> TaskConfig:
    # So narrow a std makes pixels larger than the noise that channels are traced with: a branch on that is taken.
    config = TaskConfig(network=f"{NETWORKS}:{function}", data=data, search_fraction=0.25)
    return config.model_copy(update={"mean": (0.5,) * 3, "std": (0.1,) * 3})


@pytest.mark.parametrize("function", COMPLETE)
def test_is_compressed_trained_and_judged(function: str, data: str) -> None:
    evaluator = Evaluator(_config(function, data), device="cpu")
    check_trainable(evaluator.task)
    compressor = bind_method(evaluator.task, "l1", {})
    assert compressor.sites, compressor.skipped
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    for judge in ("search", "test"):
        candidate = Candidate(method="l1", allocation=allocation, recipe=RECIPE, judge=judge)
        outcome = evaluator(candidate)
        assert outcome.status == "ok", outcome.reason


@pytest.mark.parametrize("function", REFUSED)
def test_is_refused_in_a_sentence(function: str, data: str) -> None:
    with pytest.raises(UserError, match=REFUSED[function]) as caught:
        load_task(_config(function, data), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", UNTRAINABLE)
def test_what_cannot_be_trained_is_said_before_anything_is_paid_for(function: str, data: str, tmp_path: Path) -> None:
    task = load_task(_config(function, data), "cpu")
    with pytest.raises(UserError, match=UNTRAINABLE[function]):
        check_trainable(task)
    settings = {"targets": "0.7", "results": str(tmp_path), "workers": 0, "device": "cpu", "show": False}
    with pytest.raises(UserError, match="cannot be trained"):
        api.search(f"{NETWORKS}:{function}", data, **settings)
    found = api.search(f"{NETWORKS}:{function}", data, **settings, epochs=0, final_epochs=0, strategy="acra-uniform")
    assert set(found.table["status"]) == {"ok"}


@pytest.mark.parametrize("function", NOTICED)
def test_what_is_changed_is_said(function: str, data: str) -> None:
    notices = load_task(_config(function, data), "cpu").notices
    assert any(NOTICED[function] in notice for notice in notices), notices


def test_nothing_is_said_of_a_plain_network(data: str) -> None:
    assert load_task(_config("plain", data), "cpu").notices == ()


def test_ctrl_c_is_no_refusal(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.Linear, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_task(_config("plain", data), "cpu")


def test_weights_computed_from_others_are_pruned_as_they_are(data: str) -> None:
    task = load_task(_config("weight_normed", data), "cpu")
    compressor = bind_method(task, "l1", {})
    assert {site.name: site.channels for site in compressor.sites} == {"0": 8, "2": 8}
    images = torch.randn(2, 3, 16, 16)
    dense = compressor.compress(compressor.allocation([0, 0]))
    assert torch.allclose(dense(images), task.network.eval()(images), atol=1e-5)
    assert compressor.compress(compressor.allocation([4, 4]))[2].weight.shape == (4, 4, 3, 3)


def flattened() -> nn.Module:
    """A network whose forward pass takes views, of a class that workers cannot import, as in a notebook."""

    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
            self.head = nn.Linear(12 * 16, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = torch.relu(self.inner(torch.relu(self.stem(images))))
            return self.head(features.view(images.shape[0], -1))

    return Flattened()


def test_contiguous_network_from_search_to_export(data: str, tmp_path: Path) -> None:
    """A wrapped object whose forward pass takes views: searched, exported, and loaded again."""

    torch.manual_seed(0)
    network = nn.DataParallel(flattened())
    found = api.search(
        network, data, targets=[0.7], results=str(tmp_path / "results"), workers=0, device="cpu", show=False,
        strategy="acra-uniform", epochs=0.5, final_epochs=0.5, final_seeds=1, batch_size=16,
    )  # fmt: skip
    assert set(found.table["status"]) == {"ok"}
    assert isinstance(network, nn.DataParallel)
    assert "DataParallel taken off" in " ".join(found.record["notices"])
    made = found.export(to=tmp_path / "deploy", formats=("config", "safetensors", "pt2"))
    small = api.load_compressed(tmp_path / "deploy", network=network)
    images = torch.randn(5, 3, 16, 16)
    program = torch.export.load(tmp_path / "deploy" / "model.pt2").module()
    for batch in (images, images[:1]):
        expected = made.network(batch)
        assert torch.allclose(small(batch), expected, atol=1e-5)
        assert torch.allclose(program(batch), expected, atol=1e-4)


@pytest.mark.ray
def test_workers_run_wrapped_objects_that_need_contiguous_tensors(data: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.DataParallel(flattened())
    settings = {"targets": [0.7], "strategy": "acra-uniform", "epochs": 0.5, "finalists": 0, "batch_size": 16}
    tables = [
        api.search(network, data, results=str(tmp_path / str(workers)), workers=workers, show=False, **settings).table
        for workers in (0, 1)
    ]
    assert [set(table["status"]) for table in tables] == [{"ok"}, {"ok"}]
    assert tables[0]["loss"].tolist() == pytest.approx(tables[1]["loss"].tolist(), rel=1e-4)
