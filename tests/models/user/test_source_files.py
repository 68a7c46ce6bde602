"""Which files a user's network consists of, and that the fingerprint follows their content and the arrays'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.data.array_sources import array_identity
from models.data.catalog import data_info
from models.task_config import TaskConfig
from models.tasks.picture_parts import task_parts
from models.user.source_files import own_files, source_digest

FILES = {
    "net.py": "import blocks\nfrom parts import conv\nimport torch, json\nfrom unrelated_package import thing\n",
    "blocks.py": "def build():\n    from deep.er import layer\n    from . import sibling\n",
    "parts/__init__.py": "from .norm import norm\n",
    "parts/conv.py": "",
    "parts/norm.py": "import net  # back to where it began\n",
    "deep/er/layer.py": "",
    "sibling.py": "",
    "unused.py": "",
    "json.txt": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_own_files_are_those_that_imports_lead_to(root: Path) -> None:
    found = {str(path.relative_to(root)) for path in own_files(root / "net.py")}
    assert found == {name for name in FILES if name.endswith(".py")} - {"unused.py"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_digest_changes_with_these_alone(root: Path, name: str) -> None:
    before = source_digest(root / "net.py")
    (root / name).write_text(FILES[name] + "# changed\n")
    assert (source_digest(root / "net.py") != before) == (name.endswith(".py") and name != "unused.py")


def test_a_file_that_cannot_be_parsed_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def (:\n")
    assert own_files(tmp_path / "net.py") == [tmp_path / "net.py"]


def test_a_package_imports_itself_by_its_name(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    for name, text in {"__init__.py": "", "net.py": "from mine.layers import conv\n", "layers.py": ""}.items():
        (package / name).write_text(text)
    assert own_files(package / "net.py") == [package / name for name in ("__init__.py", "layers.py", "net.py")]


def parts(config: TaskConfig) -> dict[str, object]:
    """What the fingerprint is a hash of."""
    return task_parts(config, data_info(config))


def test_editing_a_module_beside_the_network_is_another_task(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from blocks import build\n")
    (tmp_path / "blocks.py").write_text(
        "from torch import nn\n"
        "def build(classes, channels):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    config = TaskConfig(network=f"{tmp_path / 'net.py'}:build")
    before = parts(config)
    with (tmp_path / "blocks.py").open("a") as file:
        file.write("# changed\n")
    assert parts(config) != before


def test_data_of_a_function_are_known_by_their_arrays(tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "def load():\n"
        "    x = np.arange(8 * 64, dtype=np.uint8).reshape(8, 8, 8) + SHIFT\n"
        "    y = np.arange(8) % 2\n"
        "    return x, y, x, y\n"
    )
    found = {}
    for name, text in {
        "a": code.replace("SHIFT", "np.uint8(0)"),
        "b": "# the same arrays\n" + code.replace("SHIFT", "np.uint8(0)"),
        "c": code.replace("SHIFT", "np.uint8(1)"),
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        found[name] = array_identity(TaskConfig(network="small", data=f"{tmp_path / name}.py:load"))
    assert found["a"] == found["b"] != found["c"]
    assert np.unique(list(found.values())).size == 2
