"""Tasks: what is loaded, what the fingerprint depends on, whether the search split was seen, every refusal."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from task_files import task_config, write_task_files
from torch import nn
from weight_files import save_weights

from models.data.catalog import data_info
from models.data.images import Images
from models.devices import pick_device
from models.errors import UserError
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from models.tasks.load import load_network, load_task
from models.tasks.picture_parts import split_metadata, task_parts
from models.tasks.pictures import calibration_batch, evaluation_batch

SMALL = TaskConfig(network="small")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_task_files(tmp_path)


def _pixels(images: Images) -> set[bytes]:
    return {row.numpy().tobytes() for x, _ in images.batches(64) for row in x}


def parts(config: TaskConfig) -> dict[str, object]:
    """What the fingerprint is a hash of."""
    return task_parts(config, data_info(config))


def test_parts_of_the_default_task() -> None:
    task = load_task(SMALL, "cpu")
    assert len(task.tune) + len(task.search) == 1438
    assert len(task.search) == round(0.1 * 1438)
    assert len(task.test) == 359
    assert not task.network.training
    assert not task.seen
    assert task.parts == parts(SMALL)
    weights = [module.weight for module in task.network.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_parts_do_not_overlap(files: Path) -> None:
    task = load_task(task_config(files), "cpu")
    tune, search = _pixels(task.tune), _pixels(task.search)
    assert (len(tune), len(search)) == (48, 12)
    assert not tune & search
    assert torch.bincount(task.search.labels).tolist() == [4, 4, 4]
    assert task.search.labels.tolist() != sorted(task.search.labels.tolist())


def test_fewer_images_are_taken_out_of_the_same_parts(files: Path) -> None:
    whole, trial = load_task(task_config(files), "cpu"), load_task(task_config(files, train_images=30), "cpu")
    assert (len(trial.tune), len(trial.search)) == (24, 6)
    assert _pixels(trial.tune) < _pixels(whole.tune)
    assert _pixels(trial.search) < _pixels(whole.search)
    assert torch.bincount(trial.tune.labels).tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": 61}, "train_images 61 exceeds the 60 training images"),
        ({"train_images": 2}, "2 training images leave 2 to tune on and 0 to search with"),
        ({"search_fraction": 0.99}, "leave 1 to tune on and 59 to search with"),
    ],
)
def test_too_few_or_too_many_images(files: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(task_config(files, **changes), "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"split_seed": 1},
        {"search_fraction": 0.3},
        {"train_images": 30},
        {"mean": (0.5, 0.5, 0.5)},
        {"flip": False},
        {"crop": 3},
        {"network": "resnet20"},
        {"data": "cifar10"},
    ],
)
def test_fingerprint_depends_on(files: Path, changes: dict[str, Any]) -> None:
    assert parts(task_config(files, **changes)) != parts(task_config(files))


def test_fingerprint_is_of_contents_not_places(files: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    save_weights(build_network(f"{files}/net.py:build", classes=3), files / "w.safetensors", {})
    before = parts(task_config(files, weights=str(files / "w.safetensors")))
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    files.rename(moved)
    config = task_config(moved, weights=str(moved / "w.safetensors"))
    assert parts(config) == before
    (moved / "net.py").write_text((moved / "net.py").read_text() + "\n# changed\n")
    assert parts(config) != before
    save_weights(build_network(f"{moved}/net.py:rgb", classes=3), moved / "w.safetensors", {})
    with pytest.raises(UserError, match="there is no file /nowhere"):
        parts(task_config(moved, weights="/nowhere/w.pth"))


def test_fingerprint_of_named_data_needs_no_files() -> None:
    assert parts(TaskConfig(network="resnet20", data="cifar10", data_root="/nowhere")) == parts(
        TaskConfig(network="resnet20", data="cifar10", data_root="/else")
    )


def test_seen(files: Path) -> None:
    config = task_config(files, weights=str(files / "w.safetensors"))
    network = load_network(task_config(files))
    save_weights(network, files / "w.safetensors", split_metadata(config))
    assert not load_task(config, "cpu").seen
    assert not load_task(config.model_copy(update={"train_images": 30}), "cpu").seen
    assert load_task(config.model_copy(update={"split_seed": 1}), "cpu").seen
    assert load_task(config.model_copy(update={"search_fraction": 0.25}), "cpu").seen
    save_weights(network, files / "w.safetensors", {**split_metadata(config), "data": "npz:another"})
    assert load_task(config, "cpu").seen
    torch.save(network.state_dict(), files / "w.pth")
    assert load_task(task_config(files, weights=str(files / "w.pth")), "cpu").seen


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="device 'tpu' is not known; use cpu, cuda or cuda:N"):
        pick_device("tpu")
    with pytest.raises(UserError, match="device 'cuda:99' is not there"):
        pick_device("cuda:99")


def test_default_network_learns_digits_in_seconds() -> None:
    """Above 97 % on unseen digits after six passes."""
    task = load_task(SMALL, "cpu")
    network, epochs, batch = task.network.train(), 6, 64
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs * (len(task.tune) // batch))
    for epoch in range(epochs):
        for x, y in task.tune.batches(batch, seed=epoch, augment=True, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in task.test.batches(512))
    assert right / len(task.test) > 0.97


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_the_same_on_a_gpu() -> None:
    here, there = load_task(SMALL, "cpu"), load_task(SMALL, "cuda")
    for (x, y), (gx, gy) in zip(
        here.tune.batches(64, seed=1, augment=True), there.tune.batches(64, seed=1, augment=True), strict=True
    ):
        assert gx.device.type == gy.device.type == "cuda"
        torch.testing.assert_close(gx.cpu(), x)
        assert torch.equal(gy.cpu(), y)


@pytest.mark.parametrize(
    ("shape", "images"), [((3, 32, 32), 128), ((1, 64, 64), 128), ((3, 224, 224), 16), ((3, 96, 64), 85)]
)
def test_large_images_are_calibrated_in_small_batches(shape: tuple[int, ...], images: int) -> None:
    """A backward pass keeps the activations of a whole batch: its pixels are bounded, but for 16 images at least."""
    assert calibration_batch(shape) == images


@pytest.mark.parametrize(
    ("device", "side", "images"),
    [
        ("cpu", 8, 500),
        ("cpu", 224, 500),
        ("cuda", 8, 5000),
        ("cuda", 32, 5000),
        ("cuda", 128, 1531),
        ("cuda", 224, 500),
        ("cuda", 512, 500),
    ],
)
def test_more_small_images_on_a_gpu(device: str, side: int, images: int) -> None:
    assert evaluation_batch((3, side, side), torch.device(device)) == images
