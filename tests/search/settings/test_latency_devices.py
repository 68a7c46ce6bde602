"""Devices in targets: by name or by their tables' files, and what `latency` alone means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from search.allocation.targets import parse_target
from search.latency.device_file import kit_digest
from search.settings.latency_devices import LatencyDevices


def table(folder: Path, name: str) -> str:
    """A table's file; what it measured does not matter here."""
    path = folder / f"{name}.json"
    kit: dict[str, Any] = {"files": {}}
    record = {
        "schema": 1, "name": name, "complete": True, "device": "chip", "runtime": "onnxruntime 1", "provider": "CPU",
        "threads": 1, "batch": 1, "kit": {**kit, "digest": kit_digest(kit)}, "times": {},
    }  # fmt: skip
    path.write_text(json.dumps(record))
    return str(path)


def test_each_device_is_a_measure_of_its_own(tmp_path: Path) -> None:
    phone, server = table(tmp_path, "phone"), table(tmp_path, "server")
    devices = LatencyDevices([])
    measures = devices.measures_of([f"{phone}:0.6", f"{server}:5ms", f"{phone}:0.4"])
    assert measures == {"latency@phone": ["0.6", "0.4"], "latency@server": ["5ms"]}
    assert devices.paths == (phone, server)


def test_latency_means_the_only_device_with_a_table(tmp_path: Path) -> None:
    phone, server = table(tmp_path, "phone"), table(tmp_path, "server")
    assert LatencyDevices([]).measures_of(["0.6"]) == {"latency": ["0.6"]}
    assert LatencyDevices([phone]).measures_of(["0.6"]) == {"latency@phone": ["0.6"]}
    with pytest.raises(UserError, match=r"does not say on which of phone, server; write phone:0\.6"):
        LatencyDevices([phone, server]).measures_of(["0.6"])
    assert LatencyDevices([phone, server]).measures_of(["server:0.6"]) == {"latency@server": ["0.6"]}


def test_targets_of_several_measures(tmp_path: Path) -> None:
    phone, server = table(tmp_path, "phone"), table(tmp_path, "server")
    devices = LatencyDevices([phone])
    assert devices.name_devices(f"flops 0.5 + latency@{server} 2x") == "flops 0.5 + latency@server 2x"
    assert devices.name_devices("latency 0.5 + 0.7") == "latency@phone 0.5 + 0.7"
    target = parse_target(devices.name_devices(f"latency@{server} 2x + latency@phone 0.6 + flops 0.5"))
    assert target.measures == ("flops", "latency@phone", "latency@server")
    assert parse_target(str(target)) == target


@pytest.mark.parametrize("text", ["laptop:0.6", "gone.json:0.6"])
def test_unknown_devices_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"no table of device laptop.*there is phone|gone\.json cannot be read"):
        LatencyDevices([table(tmp_path, "phone")]).measures_of([text])


@pytest.mark.parametrize("text", ["latency@ 0.5", "latency@a/b 0.5", "latency@phone"])
def test_what_names_no_device_is_no_measure(text: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        parse_target(text)
