"""Settings of a task, for processes that run in another folder."""

from pathlib import Path

import pytest
from task_files import write_task_files

from models.data.catalog import data_info
from models.task_config import TaskConfig
from models.tasks.picture_parts import task_parts


def test_absolute_paths_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_task_files(tmp_path)
    monkeypatch.chdir(files)
    config = TaskConfig(network="net.py:build", data="npz:d.npz", data_root="sets", weights="w.pth")
    config = config.with_absolute_paths()
    assert (config.network, config.data) == (f"{files}/net.py:build", f"npz:{files}/d.npz")
    assert (config.data_root, config.weights) == (f"{files}/sets", f"{files}/w.pth")
    folder = TaskConfig(network="small", data="imagefolder:pics@64").with_absolute_paths()
    assert folder.data == f"imagefolder:{files}/pics@64"
    assert TaskConfig(network="small").with_absolute_paths().network == "small"
    relative = TaskConfig(network="net.py:build", data="npz:d.npz")
    absolute = relative.with_absolute_paths()
    assert task_parts(relative, data_info(relative)) == task_parts(absolute, data_info(absolute))
