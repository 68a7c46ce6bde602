"""Predictions from tables of devices whose times follow a formula: sums by hand must come out."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from device_samples import FIXED, Chain, chain_method, kit_record, stepped_time, table_record, write_table
from torch import Tensor

from methods.base import example_input
from methods.registry import create
from models.errors import UserError
from search.engine.prepare_method import step_of
from search.latency.device_file import DeviceFile, device_files, read_device_file
from search.latency.device_table import DeviceTable, fit_device_parts
from search.latency.predicted import predict_latency
from search.latency.steps import DeviceSteps, Steps


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return table_record(kit_record(chain_method(), tmp_path / "phone", monkeypatch), stepped_time)


def whole_time(widths: tuple[int, int, int]) -> float:
    """Of the chain with so many channels, by the formula itself."""
    first, second, third = widths
    layers = [("Conv", 3, first), ("Conv", first, second), ("Conv", second, third), ("Linear", third, 10)]
    return FIXED + sum(stepped_time(*layer) for layer in layers)


def levels_of(widths: tuple[int, int, int]) -> np.ndarray:
    sites = chain_method().sites
    return np.array([site.widths.index(width) for site, width in zip(sites, widths, strict=True)])


def test_steps_are_found_in_the_table(tmp_path: Path, record: dict[str, Any]) -> None:
    steps = DeviceFile(tmp_path, record).steps
    assert steps == DeviceSteps(Steps(16, 4), Steps(16, 1))
    assert steps.channels == 16


@pytest.mark.parametrize("widths", [(32, 64, 32), (16, 32, 16), (32, 16, 16), (20, 40, 28), (28, 64, 20)])
def test_sums_by_hand_come_out(tmp_path: Path, record: dict[str, Any], widths: tuple[int, int, int]) -> None:
    table = DeviceTable(DeviceFile(tmp_path, record), chain_method())
    assert table(levels_of(widths)[None])[0] == pytest.approx(whole_time(widths), rel=0.03)


def test_odd_widths_cost_what_their_kernel_does(tmp_path: Path, record: dict[str, Any]) -> None:
    table = DeviceTable(DeviceFile(tmp_path, record), chain_method())
    odd, even = table(np.stack([levels_of((31, 63, 31)), levels_of((32, 64, 32))]))
    assert odd / even == pytest.approx(whole_time((31, 63, 31)) / whole_time((32, 64, 32)), rel=0.1)
    assert odd > 1.3 * even


def slow_beside_eight(kind: str, inputs: int, outputs: int) -> float:
    """A kernel that pads both sides to multiples of 16, and takes twice as long beside multiples of 8 above 16."""
    odd = any(width > 16 and width % 8 for width in (inputs, outputs))
    return (2.0 if odd else 1.0) * 8.0 * (64 if "Conv" in kind else 1) * -(-inputs // 16) * -(-outputs // 16)


@pytest.mark.parametrize("classes", [100, 21])
def test_widths_that_no_allocation_changes_are_not_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    compressor = chain_method(classes=classes)
    record = table_record(kit_record(compressor, tmp_path / "phone", monkeypatch), slow_beside_eight)
    file = DeviceFile(tmp_path, record)
    assert file.steps == DeviceSteps(Steps(16, 8), Steps(16, 8))
    table, kinds = DeviceTable(file, compressor), ("Conv", "Conv", "Conv", "Linear")
    for widths, error in (((32, 64, 32), 0.03), ((16, 32, 16), 0.03), ((31, 63, 31), 0.1)):
        channels = (3, *widths, classes)
        whole = FIXED + sum(map(slow_beside_eight, kinds, channels, channels[1:]))
        assert table(levels_of(widths)[None])[0] == pytest.approx(whole, rel=error)


def test_factors_are_found_though_every_network_has_layers_off_the_steps() -> None:
    features = np.array([[900.0, 400, 0, 0, 0, 1], [500, 400, 0, 0, 0, 1], [300, 100, 0, 0, 0, 1]])
    measured = features @ np.array([1.0, 1.5, 0, 0, 0, 0])
    assert features @ fit_device_parts(features, measured) == pytest.approx(measured, rel=0.05)


def test_no_other_network_counts_as_the_dense_one() -> None:
    """Two equal networks on the steps that took different times: it does not matter which is named first."""
    features = np.array([[500.0, 500, 0, 0, 0, 0], [1000, 0, 0, 0, 0, 0], [1000, 0, 0, 0, 0, 0]])
    first, second = (fit_device_parts(features, np.array([1500.0, *times])) for times in ((1000, 2000), (2000, 1000)))
    assert first[0] == pytest.approx(second[0], rel=0.02)


def test_other_methods_that_narrow_are_served(tmp_path: Path, record: dict[str, Any]) -> None:
    file = DeviceFile(tmp_path, record)
    assert (
        DeviceTable(file, chain_method("fpgm")).dense_nanoseconds == DeviceTable(file, chain_method()).dense_nanoseconds
    )
    prediction = predict_latency(DeviceTable(file, chain_method()), levels_of((16, 32, 16)))
    assert prediction.kept_fraction == pytest.approx(whole_time((16, 32, 16)) / whole_time((32, 64, 32)), rel=0.03)
    assert "phone" in prediction.figures_text
    assert "made-up chip, onnxruntime 1.0, CPU, 1 thread" in prediction.figures_text


def test_layers_of_low_rank_are_not_in_it(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"measured for l1 on chain, and has no time of .*svd"):
        DeviceTable(DeviceFile(tmp_path, record), chain_method("svd"))


class LongChain(Chain):
    """Two more convolutions, like two that the chain has."""

    def __init__(self) -> None:
        super().__init__()
        self.fourth, self.fifth = copy.deepcopy(self.second), copy.deepcopy(self.third)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third, self.fourth, self.fifth):
            x = layer(x).relu()
        return self.classify(x.mean((2, 3)))


def test_networks_of_more_layers_of_the_same_kinds_are_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    longer = create("l1", LongChain().eval(), example_input((3, 8, 8)))
    with pytest.raises(UserError, match=r"measured for l1 on chain, and has no network of as many layers"):
        DeviceTable(DeviceFile(tmp_path, record), longer)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"schema": 9}, "schema 9"), ({"complete": False}, "not measured to its end"), ({"name": "my phone"}, "a word"),
     ({"kit": None, "times": None}, "")],
)  # fmt: skip
def test_files_that_will_not_do(tmp_path: Path, record: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    changed = {key: value for key, value in {**record, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=says or "no table"):
        read_device_file(write_table(tmp_path / "table.json", changed))


def _with(record: dict[str, Any], *keys: str, value: Any = None) -> dict[str, Any]:
    """The record with another value at a place, or without it."""
    key, *rest = keys
    changed = {name: part for name, part in record.items() if name != key}
    return changed if not rest and value is None else {**changed, key: _with(record[key], *rest, value=value) if rest
                                                       else value}  # fmt: skip


def test_damaged_tables_are_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    file = record["kit"]["networks"][0]["file"]
    damaged = [
        (_with(record, "device"), "device: field required"),
        (_with(record, "kit", value=[]), "kit: input should be"),
        (_with(record, "threads", value=0), "threads: input should be"),
        (_with(record, "times", file), f"no time of {file}"),
        (_with(record, "times", file, "first"), f"times.{file}.first"),
        *((_with(record, "times", file, "least", value=time), f"times.{file}.least")
          for time in (0, -1, float("nan"), float("inf"), "fast")),
        (_with(record, "kit", "layers", value=record["kit"]["layers"][1:]), "its kit is not the one"),
        (_with(record, "kit", "digest"), "its kit is not the one"),
    ]  # fmt: skip
    for table, says in damaged:
        with pytest.raises(UserError, match=re.escape(says)):
            read_device_file(write_table(tmp_path / "table.json", table))


def test_two_devices_of_one_name_are_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    paths = [write_table(tmp_path / name, record) for name in ("a.json", "b.json")]
    with pytest.raises(UserError, match="both call their device phone"):
        device_files(paths)
    assert list(device_files([paths[0], paths[0]])) == ["phone"]


@pytest.mark.parametrize(
    ("given", "method", "step"), [((), "l1", 16), (("1",), "l1", 1), (("8",), "l1", 1), ((), "tucker", 1)]
)
def test_channels_are_rounded_to_the_steps_unless_the_user_rounds_them(
    tmp_path: Path, record: dict[str, Any], given: tuple[str, ...], method: str, step: int
) -> None:
    """Ranks are no widths of channels; tables are asked for their steps alone."""
    config = SimpleNamespace(constraints=SimpleNamespace(round_channels=given))
    table = DeviceTable(DeviceFile(tmp_path, record), chain_method())
    assert step_of(config, chain_method(method), {"latency@phone": table}) == step  # type: ignore[arg-type]
