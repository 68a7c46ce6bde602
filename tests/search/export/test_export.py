"""A real run on the embedded data, exported; its files are opened the way a stranger would."""

import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from export_samples import ALL, images, searched
from PIL import Image
from rich.console import Console
from torch import nn

from methods.tables.codebook import codebook_layers
from models.errors import UserError
from models.tasks.load import load_task
from search import api
from search.export import files as export_files
from search.export import formats, forms
from search.export.compressed import load_compressed
from search.export.config import VERSION, read_config
from search.export.export import export_run
from search.export.finished_run import read_run
from search.export.pick import pick_candidate

pytestmark = pytest.mark.usefixtures("quick")


def test_every_file_is_there_and_described(made):
    names = sorted(path.name for path in made.folder.iterdir())
    assert names == ["README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"]
    config = read_config(made.folder)
    assert config == made.config
    for name, stored in config.files.items():
        content = (made.folder / name).read_bytes()
        assert (stored.bytes, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert set(config.files) == {"model.safetensors", "model.pt2", "model.onnx"}
    assert max(config.metrics.agreement.values()) <= 1e-4
    assert not [path for path in made.folder.parent.iterdir() if path != made.folder]  # nothing temporary is left


def test_costs_and_accuracy_are_those_of_the_network_itself(made):
    config = made.config
    assert config.cost.params == sum(p.numel() for p in made.network.parameters())
    assert config.cost.flops == config.metrics.executed_flops < 0.7 * config.dense.flops
    task = load_task(config.task, "cpu")
    logits = made.network(images(len(task.test))).argmax(1)
    assert config.metrics.test_score == pytest.approx((logits == task.test.labels).float().mean().item())
    assert (config.metrics.n, config.metrics.seeds, config.metrics.seed) == (2, (0, 1), 0)
    assert set(config.allocation) == {"conv1", "layer1.conv1", "layer2.conv1", "layer2.conv2", "conv3"}


def test_latency_is_measured_in_both_forms_and_both_batches(made):
    found = [(each.engine, each.batch) for each in made.config.metrics.latency]
    assert found == [("torch", 1), ("torch", 64), ("onnxruntime", 1), ("onnxruntime", 64)]
    theoretical = made.config.dense.flops / made.config.cost.flops
    for each in made.config.metrics.latency:
        assert each.theoretical == pytest.approx(theoretical)
        assert each.threads == 1
        assert min(each.dense_ms, each.compressed_ms) > 0


def test_a_network_comes_back_from_two_files_and_can_be_trained(made, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(made.folder / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["task"] |= {"weights": "/nowhere/dense.pt", "data_root": "/nowhere"}  # neither is needed
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = load_compressed(tmp_path)
    batch = images(16)
    assert torch.equal(network(batch), made.network(batch))
    before = network.conv1.weight.detach().clone()
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    nn.functional.cross_entropy(network(batch), torch.zeros(16, dtype=torch.long)).backward()
    optimizer.step()
    assert not torch.equal(network.conv1.weight, before)


STRANGER = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        absent = name.partition(".")[0] in {refused!r}.split()
        return None if absent or not hasattr(self.finder, "find_spec") else self.finder.find_spec(name, *rest)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import numpy
images = numpy.load({images!r})
{load}
numpy.save({out!r}, logits)
assert not set(sys.modules) & set({refused!r}.split())
"""
WITH_TORCH = """
import torch
logits = torch.export.load({file!r}).module()(torch.from_numpy(images)).detach().numpy()
"""
WITH_ONNXRUNTIME = """
import onnxruntime
logits = onnxruntime.InferenceSession({file!r}).run(None, {{"images": images}})[0]
"""
OURS = "models methods search run_search safetensors pydantic "


@pytest.mark.parametrize(
    ("name", "load", "refused"),
    [
        ("model.pt2", WITH_TORCH, OURS + "torchvision onnx onnxruntime onnxscript"),
        ("model.onnx", WITH_ONNXRUNTIME, OURS + "torch torchvision onnx onnxscript"),
    ],
)
def test_a_stranger_opens_the_file_with_one_library(made, tmp_path, name, load, refused):
    batch = images(7)
    np.save(tmp_path / "images.npy", batch.numpy())
    shutil.copy(made.folder / name, tmp_path / name)
    code = STRANGER.format(
        refused=refused,
        images=str(tmp_path / "images.npy"),
        load=load.format(file=str(tmp_path / name)),
        out=str(tmp_path / "logits.npy"),
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, timeout=250)
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    torch.testing.assert_close(logits, made.network(batch).detach(), rtol=1e-4, atol=1e-4)


def test_the_card_says_what_there_is_to_know(made):
    card = (made.folder / "README.md").read_text()
    config = made.config
    for shown in (
        f"{config.metrics.test_score:.2%}",
        f"{config.metrics.dense_test_score:.2%}",
        f"{config.cost.flops:,}",
        f"{config.dense.flops:,}",
        config.origin.candidate[:8],
        f"load_compressed({str(made.folder)!r})",
        "torch.export.load",
        "onnxruntime.InferenceSession",
        "layer2.conv1",
    ):
        assert shown in card
    short = any(each.far_below for each in config.metrics.latency)
    assert ("far below what the FLOPs promise" in card) == short


def test_centroids_travel_as_a_picture_and_stand_in_the_report(tmp_path):
    run = searched(tmp_path, "small", "kernel-clustering")
    assert 'href="#centroids"' in (run / "report.html").read_text()
    made = export_run(read_run(run), to=tmp_path / "deploy", formats=("safetensors", "config"))
    with Image.open(made.folder / "centroids.png") as image:
        image.load()
        assert image.format == "PNG"
    assert "](centroids.png)" in (made.folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["l1+kse", "l1+kernel-clustering"])
def test_a_composition_is_searched_exported_and_loaded(method, tmp_path):
    made = export_run(read_run(searched(tmp_path, "small", method)), to=tmp_path / "deploy", formats=ALL)
    assert set(made.config.metrics.agreement) == {"model.safetensors", "model.pt2", "model.onnx"}
    network, batch = load_compressed(made.folder), images(7)
    assert torch.equal(network(batch), made.network(batch))
    assert network.conv1.out_channels < 16
    assert codebook_layers(network)
    assert (made.folder / "centroids.png").is_file() == made.config.method.endswith("clustering")


def test_the_best_seed_is_not_chosen_on_the_test_set(run):
    record = read_run(run)
    for pick in ("best", "smallest"):
        assert pick_candidate(record, pick).candidate.seed == 0


def test_a_full_folder_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="is not empty; give another folder, or force"):
        export_run(read_run(run), to=tmp_path, formats=("config",))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_force_replaces_an_export_and_nothing_else(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    export_run(read_run(run), to=tmp_path, formats=("config",), force=True)
    (tmp_path / "model.onnx").write_text("of an earlier export")
    made = export_run(read_run(run), to=tmp_path, formats=("config", "safetensors"), force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    assert made.config.metrics.latency == ()
    load_compressed(tmp_path)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.onnx", "model.safetensors"])
def test_force_replaces_no_file_that_is_of_no_export(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name}, which no whole export has written"):
        export_run(read_run(run), to=tmp_path, formats=("config",), force=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_fault_leaves_no_file_behind(run, tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "open_onnx", lambda path, signature: lambda batch: [torch.zeros(len(batch), 10)])
    with pytest.raises(UserError, match=r"model.onnx differs from the fine-tuned network"):
        export_run(read_run(run), to=tmp_path / "deploy", formats=("onnx",))
    assert list(tmp_path.iterdir()) == []


def test_flops_that_are_not_what_was_promised_are_noticed(run, tmp_path, monkeypatch):
    def narrow_only(network, example, choices=None):
        return formats.count_flops(network, example, choices) + (network.conv1.out_channels < 16)

    monkeypatch.setattr(export_files, "count_flops", narrow_only)
    with pytest.raises(UserError, match="FLOPs where its search says"):
        export_run(read_run(run), to=tmp_path / "deploy", formats=("config",))


def test_a_task_that_changed_since_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["config"]["task"]["split_seed"] = 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"have changed .* since the search in"):
        export_run(read_run(tmp_path / "run"))


def test_weights_that_are_damaged_or_another_networks_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "weights" / f"{pick_candidate(read_run(run), 'best').key}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(UserError, match="is not whole; remove it and export again"):
        export_run(read_run(tmp_path / "run"))
    path.write_bytes(content)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: torch.zeros_like(tensor) for name, tensor in safetensors.torch.load(content).items()}
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="on the test set where the search found"):
        export_run(read_run(tmp_path / "run"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not whole"),
        (lambda text: '{"architectures": ["Bert"], "version": 1}', "was not written by ratio-search"),
        (lambda text: "[]", "was not written by ratio-search"),
        (lambda text: text.replace(f'"version": {VERSION}', f'"version": {VERSION + 1}'), "use a newer one"),
        (lambda text: text.replace('"version": ', '"colour": "red", "version": '), "colour: Extra inputs"),
        (lambda text: text.replace('"network": "small"', '"network": "smal"'), "unknown network 'smal'"),
        (lambda text: text.replace('"network": "small"', '"network": "resnet20"'), "does not fit network resnet20"),
    ],
)
def test_configs_that_cannot_be_used(made, tmp_path, change, message):
    shutil.copytree(made.folder, tmp_path / "export")
    path = tmp_path / "export" / "config.json"
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(UserError, match=message):
        load_compressed(tmp_path / "export")


def test_half_an_export_is_refused(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "export")
    path = tmp_path / "export" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="half-written or changed"):
        load_compressed(tmp_path / "export")
    path.unlink()
    with pytest.raises(UserError, match=r"holds no model.safetensors; export again"):
        load_compressed(tmp_path / "export")
    with pytest.raises(UserError, match=r"holds no config.json"):
        load_compressed(tmp_path)


NETWORK = """
from torch import nn

def build(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


def test_a_users_network_is_rebuilt_from_the_same_file_only(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    run = searched(tmp_path, f"{tmp_path}/net.py:build", "l1")
    made = export_run(read_run(run), formats=("config", "safetensors"))
    assert made.folder == run / "export"
    batch = images(4)
    assert torch.equal(load_compressed(made.folder)(batch), made.network(batch))
    (tmp_path / "net.py").rename(tmp_path / "moved.py")
    with pytest.raises(UserError, match=r"net.py is not there any more; say where it is"):
        load_compressed(made.folder)
    moved = load_compressed(made.folder, network=f"{tmp_path}/moved.py:build")
    assert torch.equal(moved(batch), made.network(batch))
    (tmp_path / "net.py").write_text(NETWORK.replace("12, 3)", "14, 3)"))
    with pytest.raises(UserError, match=r"net.py is not the file that was exported"):
        load_compressed(made.folder)


@pytest.mark.parametrize("digest", [True, False])
def test_code_that_an_export_brings_along_is_not_executed(made, tmp_path, digest, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "export")
    monkeypatch.chdir(tmp_path / "export")
    (tmp_path / "export" / "net.py").write_text(NETWORK + f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    config["task"]["network"] = "net.py:build"
    if digest:
        sha256 = hashlib.sha256((tmp_path / "export" / "net.py").read_bytes()).hexdigest()
        path = str(tmp_path / "export" / "net.py")
        config["network_file"] = {"path": path, "function": "build", "sha256": sha256}
    (tmp_path / "export" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"say where it is|without its digest"):
        load_compressed(tmp_path / "export")
    assert not (tmp_path / "executed").exists()


def test_what_is_shown_names_files_costs_and_how_to_load(run, tmp_path):
    console = Console(file=io.StringIO(), width=120)
    made = api.export(run, pick="smallest", to=tmp_path / "x", formats="config,safetensors,pt2", show=console)
    text = console.file.getvalue()
    assert made.folder == tmp_path / "x"
    for name in ("model.safetensors", "model.pt2", "config.json", "README.md", "torch on cpu", "load_compressed("):
        assert name in text
    assert f"{made.config.metrics.test_score:.2%}" in text
