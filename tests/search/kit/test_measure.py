"""The script of a kit: what it needs, that it goes on where it stopped, and what it takes for a time."""

from __future__ import annotations

import ast
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.kit import measure

SOURCE = Path(measure.__file__).read_text(encoding="utf-8")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three groups of one file each, which no runtime opens."""
    groups = {f"layers {number}": [f"{number}.onnx"] for number in range(3)}
    record = {"name": "phone", "digest": "abc", "groups": groups, "files": {f"{n}.onnx": {} for n in range(3)}}
    (tmp_path / "kit.json").write_text(json.dumps(record))
    conditions = {"device": "chip", "runtime": "onnxruntime 1", "provider": "CPU", "threads": 1, "batch": 1}
    monkeypatch.setattr(measure, "measuring_conditions", lambda *arguments: conditions)
    monkeypatch.setattr(measure, "open_file", lambda path, *arguments: path.name)
    return tmp_path


def test_it_needs_nothing_of_ours_and_no_new_python() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 8))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name.split(".")[0] for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.split(".")[0] for node in imports if isinstance(node, ast.ImportFrom) and node.module}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    assert "strict=" not in SOURCE, "Python 3.8 does not know it"


def test_broken_off_it_goes_on(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def time_files(runs: list[str], clock: Any) -> tuple[list[list[float]], list[list[float]]]:
        if len(timed) == 4:
            timed.append("stop")
            raise KeyboardInterrupt
        timed.extend(runs)
        return [[3e-6, 4e-6]], [[1e-6 * len(timed), 2e-6 * len(timed)]]

    monkeypatch.setattr(measure, "time_in_turns", time_files)
    arguments = ["--kit", str(kit)]
    assert measure.main(arguments) == measure.INTERRUPTED
    assert not json.loads((kit / "table.json").read_text())["complete"]
    assert measure.main(arguments) == 0
    table = json.loads((kit / "table.json").read_text())
    assert table["complete"]
    assert [name for name in timed if name != "stop"] == ["0.onnx", "1.onnx", "2.onnx"] * measure.PASSES
    assert table["times"]["0.onnx"]["least"] == pytest.approx(1000.0)  # of all passes
    assert table["times"]["0.onnx"]["first"] == pytest.approx(3000.0)
    assert measure.main(arguments) == 0, "a whole table is left as it is"


def test_whole_networks_come_first(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((kit / "kit.json").read_text())
    record["groups"]["networks"] = ["n.onnx"]
    record["files"]["n.onnx"] = {}
    (kit / "kit.json").write_text(json.dumps(record))
    timed: list[str] = []
    monkeypatch.setattr(measure, "time_in_turns", lambda runs, clock: timed.extend(runs) or ([[1e-6]], [[1e-6]]))
    assert measure.main(["--kit", str(kit)]) == 0
    assert timed == ["n.onnx", "0.onnx", "1.onnx", "2.onnx"] * measure.PASSES


@pytest.mark.parametrize(
    ("table", "says"),
    [({"kit": {"digest": "other"}, "done": {}, "times": {}}, "of another kit"), ("{", "is no table"),
     ({"kit": None}, "is no table"), ([], "is no table")],
)  # fmt: skip
def test_a_table_of_something_else_is_not_replaced(
    kit: Path, capsys: pytest.CaptureFixture[str], table: Any, says: str
) -> None:
    content = table if isinstance(table, str) else json.dumps(table)
    (kit / "table.json").write_text(content)
    assert measure.main(["--kit", str(kit)]) == 2
    assert says in capsys.readouterr().err
    assert (kit / "table.json").read_text() == content


@pytest.mark.parametrize(
    ("place", "says"),
    [("nowhere/table.json", "nowhere/table.json cannot be written"), (".", "cannot be read")],
)  # fmt: skip
def test_a_table_that_cannot_be_written_is_told_before_anything_is_timed(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, says: str
) -> None:
    monkeypatch.setattr(measure, "time_in_turns", lambda *arguments: pytest.fail("it timed"))
    assert measure.main(["--kit", str(kit), "--to", str(kit / place)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"digest": "abc", "groups": {}, "files": {}}'])
def test_damaged_kits_are_told(kit: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (kit / "kit.json").write_text(content)
    assert measure.main(["--kit", str(kit)]) == 2
    assert "copy the whole kit again" in capsys.readouterr().err


def test_files_that_onnxruntime_cannot_open_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    record = {"name": "phone", "digest": "abc", "groups": {"networks": ["0.onnx"]}, "files": {"0.onnx": {}}}
    (tmp_path / "kit.json").write_text(json.dumps(record))
    for make in (lambda: None, lambda: (tmp_path / "0.onnx").write_bytes(b"no model")):
        make()
        assert measure.main(["--kit", str(tmp_path)]) == 2
        assert f"networks of {tmp_path} cannot be run" in capsys.readouterr().err


def test_a_provider_that_could_not_be_loaded_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=lambda *args, **kwargs: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    with pytest.raises(measure.MeasureError, match="could not start CUDAExecutionProvider"):
        measure.open_file(Path("0.onnx"), {}, "CUDAExecutionProvider", 1, 1)


@pytest.mark.parametrize("names", ["ab", "abc", "abcdef"])
def test_times_by_a_made_up_clock(names: str) -> None:
    """A run is slow in its first call after another one, as if that had taken the caches."""
    now, last = 0.0, ""

    def call(name: str, time: float) -> None:
        nonlocal now, last
        now += time if name == last else 5 * time
        last = name

    times = {name: 1e-4 * number for number, name in enumerate(names, 1)}
    runs = [partial(call, *item) for item in times.items()]
    firsts, seconds = measure.time_in_turns(runs, lambda: now)
    for time, cold, warm in zip(times.values(), firsts, seconds, strict=True):
        assert cold == pytest.approx([5 * time] * len(cold))
        assert warm == pytest.approx([time] * len(warm))


def test_statistics_of_a_file_are_those_of_its_quietest_pass() -> None:
    times: dict[str, Any] = {}
    for firsts, seconds in (([9e-6], [3e-6, 3e-6]), ([8e-6], [1e-6, 5e-6]), ([7e-6], [2e-6, 2e-6])):
        measure.note_times(times, "a", firsts, seconds)
    assert times == {"a": {"least": 1000.0, "first": 7000.0, "median": 3000.0, "spread": 2000.0}}
