"""The Python interface: objects instead of names, tables, and networks that are what the tables say."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

import run_search
from models.data.catalog import data_info
from models.errors import UserError
from models.task_config import TaskConfig
from models.user import given_networks
from search import api
from search.api_objects import RunResult
from search.ledger.ledger import Ledger
from search.settings.inputs import data_spec

TINY = {"epochs": 0.3, "final_epochs": 0.3, "final_seeds": 2, "workers": 0, "device": "cpu", "show": False}


class Net(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm, self.two = nn.BatchNorm2d(width), nn.Conv2d(width, 16, 3, stride=2, bias=False)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.two(self.norm(self.one(images)).relu()).relu().mean((2, 3))))


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target
    return images[:400], labels[:400], images[400:600], labels[400:600]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, RunResult]:
    torch.manual_seed(0)
    network = Net().train()
    results = tmp_path_factory.mktemp("api") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pd, "read_csv", refuse_reading)
        found = api.search(
            network, arrays(), targets=[0.7, 0.4], strategy="acra-uniform", results=results, name="run", **TINY
        )
    return network, found


def refuse_reading(*_: object, **__: object) -> None:
    raise AssertionError("tables of this process were read back from their files")


def flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


def test_the_given_network_stays_as_it_is(searched: tuple[Net, RunResult]) -> None:
    torch.manual_seed(0)
    fresh = Net()
    network, _ = searched
    assert network.training
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in fresh.state_dict().items())


def test_tables_and_networks_agree(searched: tuple[Net, RunResult]) -> None:
    dense, found = searched
    assert found.complete
    assert list(found.best.index) == ["0.7", "0.4"]
    for target in ("0.7", "0.4"):
        small = found.network(target)
        assert flops(small) == found.best.loc[target, "flops"]
        assert flops(small) <= float(target) * flops(dense)
        assert sum(p.numel() for p in small.parameters()) == found.best.loc[target, "params"]
    assert set(found.finalists["seeds"]) == {2}
    assert len(found.table[found.table["stage"] == "search"]) == 2
    assert found.pareto["flops"].is_monotonic_increasing


def test_a_result_is_what_another_process_reads_from_its_folder(searched: tuple[Net, RunResult]) -> None:
    network, found = searched
    read = api.open_run(found.folder, network=network)
    for name in ("table", "pareto", "finalists", "best"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(read, name))
    assert (read.run.fingerprint, read.run.task_parts, read.config) == (
        found.run.fingerprint, json.loads(json.dumps(found.run.task_parts)), found.config)  # fmt: skip
    assert read.run.host == found.run.host


def test_the_network_has_the_accuracy_that_the_table_names(searched: tuple[Net, RunResult]) -> None:
    _, found = searched
    _, _, x_test, y_test = arrays()
    line = found.table[(found.table["stage"] == "final") & (found.table["target"] == "0.4")].iloc[0]
    task = found.config.task
    info = data_info(task)
    images = (torch.from_numpy(x_test)[:, None].float() / 255 - info.mean[0]) / info.std[0]
    with torch.no_grad():
        right = (found.network(line["key"])(images).argmax(1).numpy() == y_test).mean()
    assert right == pytest.approx(line["test_accuracy"], abs=1e-9)


def test_a_result_can_be_trained_on(searched: tuple[Net, RunResult]) -> None:
    _, found = searched
    small = found.network("0.4").train()
    small(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_resuming_needs_the_same_network_and_pays_for_nothing(searched: tuple[Net, RunResult]) -> None:
    _, found = searched
    before = records(found)
    again = api.search(Net(), resume=found.folder, show=False)
    assert records(again) == before
    assert again.finalists.equals(found.finalists)
    with pytest.raises(UserError, match="is not the run's"):
        api.search(Net(width=13), resume=found.folder, show=False)


def records(found: RunResult) -> list[str]:
    with Ledger.open_existing(found.config.ledger, found.run.fingerprint) as ledger:
        return [record.key for record in ledger.records()]


def test_a_process_without_the_object_is_told_so(
    searched: tuple[Net, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = searched
    monkeypatch.setattr(given_networks, "GIVEN_NETWORKS", {})
    assert api.open_run(found.folder).table.equals(found.table)
    with pytest.raises(UserError, match="was given as a Python object"):
        api.search(resume=found.folder, show=False)
    with pytest.raises(UserError, match="was given as a Python object"):
        found.network()
    assert flops(api.open_run(found.folder, network=Net()).network("0.4")) == found.best.loc["0.4", "flops"]


def test_an_export_comes_back_with_the_object_alone(
    searched: tuple[Net, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = searched
    monkeypatch.setattr(pd, "read_csv", refuse_reading)
    made = found.export("0.4", to=tmp_path / "out", formats=("config", "safetensors"))
    monkeypatch.setattr(given_networks, "GIVEN_NETWORKS", {})
    back = api.load_compressed(tmp_path / "out", network=Net())
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(back(images), made.network(images))
    with pytest.raises(UserError, match="computes something else"):
        api.load_compressed(tmp_path / "out", network=Net(width=13))


def test_the_leaderboard_knows_the_run(searched: tuple[Net, RunResult]) -> None:
    _, found = searched
    board = api.leaderboard(results=found.folder.parent)
    assert set(board.table["target"]) == {"0.7", "0.4"}
    assert json.loads(board.text("json"))["tasks"][0]["title"].startswith("Net on arrays-")
    assert f"api.search(network, resume={str(found.folder)!r})" in set(board.table["command"])


# ---- comparisons, and methods that learn their allocation


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    torch.manual_seed(0)
    results = tmp_path_factory.mktemp("compare") / "results"
    settings = {name: value for name, value in TINY.items() if name != "final_seeds"}
    settings |= {"epochs": 2, "final_epochs": 2}
    return api.compare(
        Net(), arrays(), methods=["l1", "resrep"], strategies="acra-uniform", seeds=1, targets=0.7, results=results,
        batch_size=64, **settings,
    )  # fmt: skip


def test_every_finalist_of_a_comparison_can_be_taken_and_exported(compared: RunResult, tmp_path: Path) -> None:
    assert set(compared.finalists["method"]) == {"l1", "resrep"}
    for line in compared.finalists.to_dict("records"):
        made = compared.export(line["candidate"], to=tmp_path / line["method"], formats=("config", "safetensors"))
        assert made.config.method == line["method"]
        assert flops(made.network) == line["flops"]
        assert made.config.metrics.test_score == pytest.approx(line["test_accuracy"], abs=1e-9)


def test_a_learned_allocation_is_exported_as_it_was_judged_even_without_its_weights(
    compared: RunResult, tmp_path: Path
) -> None:
    (line,) = compared.finalists[compared.finalists["method"] == "resrep"].to_dict("records")
    for path in (compared.folder / "weights").glob("*.safetensors"):
        path.unlink()
    made = compared.export(line["candidate"], to=tmp_path / "again", formats=("config", "safetensors"))
    judged = json.loads(line["allocation"])
    assert {site: setting for site, setting in made.config.allocation.items() if site in judged} == judged
    assert flops(made.network) == line["flops"]
    assert made.config.metrics.test_score == pytest.approx(line["test_accuracy"], abs=1e-9)


# ---- what goes in


class Pictures(Dataset[tuple[Tensor, int]]):
    """As torchvision's data sets with ToTensor."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, shift: float = 0.0) -> None:
        self.images, self.labels, self.shift = images, labels, shift

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[index])[None].float() / 255 - self.shift, int(self.labels[index])


def test_data_sets_are_the_arrays_that_they_hold(tmp_path: Path) -> None:
    x_train, y_train, x_test, y_test = arrays()
    sets = Pictures(x_train, y_train), Pictures(x_test, y_test)
    one, other = data_spec(sets, tmp_path), data_spec(arrays(), tmp_path)
    first, second = (np.load(spec.removeprefix("npz:")) for spec in (one, other))
    assert all(np.array_equal(first[name], second[name]) for name in first.files)
    assert np.array_equal(second["x_train"][..., 0], x_train)
    assert one.rsplit("-", 1)[1] == other.rsplit("-", 1)[1]  # named by their content


def test_normalised_data_sets_are_the_floats_that_they_hold(tmp_path: Path) -> None:
    x_train, y_train, x_test, y_test = arrays()
    shifted = Pictures(x_train, y_train, shift=0.3)
    spec = data_spec((shifted, Pictures(x_test, y_test, shift=0.3)), tmp_path)
    with np.load(spec.removeprefix("npz:")) as stored:
        np.testing.assert_allclose(stored["x_train"][..., 0], x_train / 255 - 0.3, atol=1e-6)
    with pytest.raises(UserError, match=r"data sets given .Pictures. are on different scales, x_train .* from -0\.3"):
        data_spec((shifted, Pictures(x_test, y_test)), tmp_path)


def test_one_image_of_more_shades_makes_both_data_sets_floats(tmp_path: Path) -> None:
    x_train, y_train, x_test, y_test = arrays()
    softened = Pictures(x_train.astype(np.float32), y_train)
    softened.images[7, 2, 3] = 100.5
    spec = data_spec((softened, Pictures(x_test, y_test)), tmp_path)
    with np.load(spec.removeprefix("npz:")) as stored:
        np.testing.assert_allclose(stored["x_train"][..., 0], softened.images / 255, atol=1e-6)
        np.testing.assert_allclose(stored["x_test"][..., 0], x_test / 255, atol=1e-6)


def test_names_of_classes_are_kept_with_given_arrays(tmp_path: Path) -> None:
    x_train, y_train, x_test, y_test = arrays()
    names = np.array([f"digit {n}" for n in range(10)])
    spec = data_spec((x_train, names[y_train], x_test, names[y_test].tolist()), tmp_path)
    info = data_info(TaskConfig(network="small", data=spec))
    assert (info.classes, info.labels) == (10, tuple(names.tolist()))


class Broken(Pictures):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 5:
            raise FileNotFoundError("no such picture")
        return super().__getitem__(index)


def test_a_data_set_that_raises_is_named_with_the_item(tmp_path: Path) -> None:
    x_train, y_train, x_test, y_test = arrays()
    with pytest.raises(UserError, match="item 5 of Broken cannot be read: FileNotFoundError: no such picture"):
        data_spec((Broken(x_train, y_train), Pictures(x_test, y_test)), tmp_path)


def test_an_object_needs_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an object; give its name, four arrays"):
        api.plan(Net(), results=tmp_path)


def test_unknown_keywords_are_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean targets"):
        api.plan("resnet20", targts=0.5)


@pytest.mark.parametrize("name", ["search", "plan", "compare", "train"])
def test_every_option_of_the_command_line_is_a_documented_keyword(name: str) -> None:
    command = next(each for each in run_search.app.registered_commands if each.callback.__name__ == name)  # type: ignore[union-attr]
    assert command.callback is not None
    call = getattr(api, name)
    for option in inspect.signature(command.callback).parameters:
        keyword = option.removesuffix("_")
        assert keyword == "json" or keyword in inspect.signature(call).parameters, option
    assert "search_fraction" in call.__doc__
    assert "ranks candidates" in call.__doc__


def test_the_command_line_and_a_call_plan_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["run_search.py", "plan", "--network", "resnet20", "--target-flops", "20M", "--json"]
    )
    with pytest.raises(SystemExit) as stop:
        run_search.main()
    assert not stop.value.code
    shown = json.loads(capsys.readouterr().out)
    planned = api.plan("resnet20", targets="20M")
    assert {**planned.record, "solve_seconds": 0} == {**shown, "solve_seconds": 0}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        planned.network()(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() // 2 == shown["achieved"]["flops"]
    assert list(planned.table["site"]) == list(shown["allocation"])
