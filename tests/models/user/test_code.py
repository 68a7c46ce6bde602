"""A user's files: their imports find their own modules first, whenever they happen, and ours go on working."""

import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

import models.errors
import search
from models.errors import UserError
from models.networks.catalog import build_network
from models.user.code import call_user, is_user_spec, load_function

ROOT = Path(__file__).resolve().parents[3]


def _put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return root


def _call(root: Path, function: str = "build", file: str = "net.py") -> Any:
    return load_function(f"{root}/{file}:{function}", "network")()


THEIRS = {
    "models.py": {"models.py": "WHO = 'theirs'"},
    "package": {"models/__init__.py": "WHO = 'theirs'"},
    "folder without __init__": {"models/who.py": "WHO = 'theirs'"},
}

WAYS = {
    "import": "import {module} as m",
    "from": "from {module} import WHO; import {module} as m; assert m.WHO is WHO",
    "import_module": "import importlib; m = importlib.import_module('{module}')",
    "from importlib": "from importlib import import_module; m = import_module('{module}')",
    "__import__": "m = __import__('{module}', fromlist=['WHO'])",
    "star": "from {module} import *; import {module} as m; assert WHO == m.WHO",
}


@pytest.mark.parametrize("layout", THEIRS)
@pytest.mark.parametrize("way", WAYS)
def test_their_models_at_import(tmp_path: Path, layout: str, way: str) -> None:
    module = "models.who" if layout.startswith("folder") else "models"
    _put(tmp_path, {**THEIRS[layout], "net.py": WAYS[way].format(module=module) + "\ndef build(): return m.WHO\n"})
    assert _call(tmp_path) == "theirs"
    assert sys.modules["models"].__file__ == str(ROOT / "models" / "__init__.py")
    assert importlib.import_module("models.errors") is models.errors


@pytest.mark.parametrize("layout", THEIRS)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "star"])
def test_their_models_inside_a_function(tmp_path: Path, layout: str, way: str) -> None:
    module = "models.who" if layout.startswith("folder") else "models"
    text = f"def build():\n    {WAYS[way].format(module=module)}\n    return m.WHO\n"
    _put(tmp_path, {**THEIRS[layout], "net.py": text})
    assert _call(tmp_path) == "theirs"


def test_submodules_and_relative_imports(tmp_path: Path) -> None:
    _put(
        tmp_path,
        {
            "models/__init__.py": "from models.blocks import width\nfrom .deep import depth\n",
            "models/blocks.py": "import models.deep as deep\nwidth = deep.depth + 1\n",
            "models/deep.py": "from . import __name__ as package\ndepth = 6\n",
            "search/__init__.py": "",
            "search/space.py": "from models import width\nsize = width * 2\n",
            "net.py": """
                import models.blocks
                import search.space
                from models import blocks, deep
                from search import space
                def build():
                    import importlib
                    relative = importlib.import_module('.deep', 'models')
                    named = importlib.import_module('.deep', models.__name__)
                    assert models.blocks is blocks and search.space is space and relative is deep is named
                    return models.width, blocks.width, deep.depth, space.size
                """,
        },
    )
    assert _call(tmp_path) == (7, 7, 6, 14)
    assert sys.modules["search"] is search


def test_lazy_import_in_forward_in_a_thread(tmp_path: Path) -> None:
    _put(
        tmp_path,
        {
            "models/__init__.py": "",
            "models/late.py": "def scale(x):\n    from utils import factor\n    return x * factor\n",
            "utils.py": "factor = 3\n",
            "net.py": """
                from torch import nn
                class Net(nn.Module):
                    def forward(self, x):
                        from models.late import scale
                        return scale(x)
                def build(classes):
                    return Net()
                """,
        },
    )
    network = build_network(f"{tmp_path}/net.py:build", classes=4)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(network(torch.ones(2)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.tolist() for result in results] == [[3, 3]] * 4
    from models.task_config import TaskConfig  # ours, after theirs were imported

    assert TaskConfig(network="small").data == "digits"


def test_two_users_each_with_own_utils(tmp_path: Path) -> None:
    for name in ("one", "two"):
        text = "import utils\ndef build():\n    import utils as again\n    return utils.WHO, again is utils\n"
        _put(tmp_path / name, {"utils.py": f"WHO = {name!r}", "net.py": text})
    builders = [load_function(f"{tmp_path}/{name}/net.py:build", "network") for name in ("one", "two")]
    assert [build() for build in builders] == [("one", True), ("two", True)]
    assert [build() for build in reversed(builders)] == [("two", True), ("one", True)]


def test_named_like_the_standard_library(tmp_path: Path) -> None:
    import random

    _put(
        tmp_path,
        {
            "random.py": "WHO = 'theirs'",
            "types.py": "WHO = 'theirs'",
            "net.py": """
                import random, types, tempfile, collections
                def build():
                    # tempfile picks names with the real `random`, whatever lies in this folder
                    return random.WHO, types.WHO, hasattr(tempfile._Random(), 'random')
                """,
        },
    )
    assert _call(tmp_path) == ("theirs", "theirs", True)
    assert sys.modules["random"] is random
    assert 0 <= random.random() < 1


def test_a_bare_folder_does_not_hide_an_installed_package(tmp_path: Path) -> None:
    _put(tmp_path, {"numpy/notes.txt": "", "net.py": "import numpy\ndef build(): return numpy.ones(2).sum()\n"})
    assert _call(tmp_path) == 2


def test_ours_for_who_has_none(tmp_path: Path) -> None:
    text = "from models.networks.shortcut import PadShortcut\ndef build(): return PadShortcut(4, 8, 2)\n"
    _put(tmp_path, {"net.py": text})
    from models.networks.shortcut import PadShortcut

    assert type(_call(tmp_path)) is PadShortcut


def test_a_file_beside_our_packages_gets_ours() -> None:
    """Not a second copy of them, whose errors would not be caught."""
    function = load_function(f"{ROOT}/models/data/folder_images.py:describe_folder", "data")
    with pytest.raises(UserError, match="there is no folder"):
        function("imagefolder:/nowhere")


@pytest.mark.parametrize("change", ["sys.path.insert(0, up)", "sys.path.append(up)"])
def test_sys_path_entries_are_theirs_alone(tmp_path: Path, change: str) -> None:
    _put(
        tmp_path,
        {
            "models/__init__.py": "WHO = 'theirs'",
            "parts_of_mine.py": "WHO = 'mine'",
            "nets/net.py": f"""
                import os, sys
                up = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
                {change}
                import models
                def build():
                    import parts_of_mine
                    return models.WHO, parts_of_mine.WHO
                """,
        },
    )
    before = list(sys.path)
    assert _call(tmp_path / "nets") == ("theirs", "mine")
    assert sys.path == before
    assert importlib.import_module("models") is models


def test_a_file_inside_their_models(tmp_path: Path) -> None:
    files = {
        "models/net.py": "from models.blocks import WHO\ndef build(): return WHO\n",
        "models/blocks.py": "WHO = 5\n",
    }
    _put(tmp_path, files)
    assert _call(tmp_path / "models") == 5


def test_dataclasses_pickle_and_source_work(tmp_path: Path) -> None:
    _put(
        tmp_path,
        {
            "net.py": """
                from __future__ import annotations
                import inspect, pickle, typing
                from dataclasses import dataclass
                @dataclass
                class Shape:
                    width: int = 4
                def build():
                    hints = typing.get_type_hints(Shape)
                    return pickle.loads(pickle.dumps(Shape(6))), hints, inspect.getsource(Shape).split()[1]
                """
        },
    )
    shape, hints, source = _call(tmp_path)
    assert (shape.width, hints, source) == (6, {"width": int}, "class")


def test_relative_path_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(
        tmp_path,
        {"my nets/net-v1.2.py": "import utils\ndef build(): return utils.WHO\n", "my nets/utils.py": "WHO = 1\n"},
    )
    monkeypatch.chdir(tmp_path)
    assert load_function("my nets/net-v1.2.py:build", "network")() == 1
    monkeypatch.chdir(tmp_path / "my nets")
    assert load_function("../my nets/net-v1.2.py:build", "network")() == 1


def test_executed_once(tmp_path: Path) -> None:
    _put(tmp_path, {"net.py": "calls = []\ndef build():\n    calls.append(1)\n    return len(calls)\n"})
    assert [_call(tmp_path), _call(tmp_path)] == [1, 2]


def test_their_prints_do_not_reach_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _put(tmp_path, {"net.py": "print('loading')\ndef build():\n    print('building')\n"})
    call_user(f"{tmp_path}/net.py:build", load_function(f"{tmp_path}/net.py:build", "network"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loading\nbuilding\n")


def _refused(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load_function(spec, "network")
    message = str(caught.value)
    assert "\n" not in message
    assert "_ratio_search" not in message
    return message


def test_no_such_file_or_function(tmp_path: Path) -> None:
    _put(tmp_path, {"net.py": "def build_net(): ...\n", "bare.py": "WIDTH = 3\n"})
    assert f"there is no file {tmp_path}/absent.py" in _refused(f"{tmp_path}/absent.py:build")
    assert "did you mean build_net?" in _refused(f"{tmp_path}/net.py:buildnet")
    assert "defines no function 'build'" in _refused(f"{tmp_path}/bare.py:build")
    assert "defines no function 'WIDTH'" in _refused(f"{tmp_path}/bare.py:WIDTH")
    assert "write path/to/file.py:function" in _refused(f"{tmp_path}/net.py")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1\nraise RuntimeError('no such\\nluck')\n", "RuntimeError: no such (line 2)"),
        ("def build(:\n    pass\n", "SyntaxError: invalid syntax (line 1)"),
        ("\n\nimport module_that_is_not_there\n", "No module named 'module_that_is_not_there' (line 3)"),
        ("import utils\n", "ValueError: bad width (line 2 of {root}/utils.py)"),
        ("import os\nimport models.absent\n", "No module named 'models.absent' (line 2)"),
        ("from models import nothing\n", "cannot import name 'nothing' from 'models'"),
        ("import sys\nsys.exit('enough')\n", "SystemExit: enough (line 2)"),
        ("assert 1 == 2\n", "AssertionError (line 1)"),
    ],
)
def test_failing_import_tells_error_and_line(tmp_path: Path, text: str, error: str) -> None:
    _put(tmp_path, {"net.py": text, "utils.py": "\nraise ValueError('bad width')\n", "models/__init__.py": ""})
    for _ in range(2):  # the second time like the first
        message = _refused(f"{tmp_path}/net.py:build")
        assert f"{tmp_path}/net.py fails to import: " in message
        assert error.format(root=tmp_path) in message


def test_what_counts_as_a_file() -> None:
    assert is_user_spec("a/b.py:f")
    assert is_user_spec("b.py")
    assert not any(map(is_user_spec, ["resnet20", "npz:a.npz", "imagefolder:/data/py", "numpy"]))


def test_in_a_fresh_process(tmp_path: Path) -> None:
    """As a worker does it: our packages on the path, the user's folder not."""
    _put(
        tmp_path,
        {
            "models/__init__.py": "from models.late import WHO\n",
            "models/late.py": "WHO = 'theirs'\n",
            "search.py": "WHO = 'also theirs'\n",
            "net.py": "import models\ndef build():\n    import search\n    return [models.WHO, search.WHO]\n",
        },
    )
    code = (
        "import json\nfrom models.user.code import load_function\n"
        f"build = load_function({str(tmp_path)!r} + '/net.py:build', 'network')\n"
        "import search.recipe, models.task_config\nprint(json.dumps(build() + [search.recipe.ZERO_SHOT.epochs]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == ["theirs", "also theirs", 0]


@pytest.mark.ray
def test_in_a_ray_worker(tmp_path: Path) -> None:
    import ray

    _put(
        tmp_path,
        {
            "models.py": "import torch.nn as nn\nclass Net(nn.Identity):\n    pass\n",
            "net.py": "def build():\n    from models import Net\n    return Net()\n",
        },
    )

    def build(spec: str) -> tuple[str, str]:
        from models.networks.catalog import build_network, own_names

        return type(build_network(spec, classes=2)).__name__, own_names()[-1]

    ray.init(
        address="local",  # whatever other cluster runs on this machine
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        assert ray.get(ray.remote(build).remote(f"{tmp_path}/net.py:build")) == ("Net", "vgg19-cifar")
    finally:
        ray.shutdown()
