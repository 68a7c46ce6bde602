"""Records by name: of a package's files, of installed packages' entry points, and of a user's own files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from models.registry import Registry
from models.settings import naming_flags
from models.user.pinned_code import code_identity, code_label, split_digest

GROUP = "ratio_search.toys"


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a `records.py` at the top and one in a folder; its other file must not be imported."""
    folder = tmp_path / "toybox"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "heavy.py").write_text("raise RuntimeError('imported')\n")
    (folder / "records.py").write_text("import builtins\nbuiltins._toys.put('top', 1)\n")
    (folder / "inner" / "records.py").write_text("import builtins\nbuiltins._toys.put('deep', 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "toybox"
    for name in [name for name in sys.modules if name.partition(".")[0] in ("toybox", "fancytoys")]:
        del sys.modules[name]


@pytest.fixture
def toys(package: str, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    def read_record(name: str, found: Any) -> Any:
        if isinstance(found, str):
            raise UserError(f"{name} is a text")
        return name, found

    class Toys(Registry[Any]):
        def put(self, name: str, record: Any) -> None:
            self.add(name, record)

    registry = Toys("toy", package=package, group=GROUP, read_record=read_record)
    monkeypatch.setattr("builtins._toys", registry, raising=False)
    return registry


def install(folder: Path, entries: str, code: str, name: str = "fancy-toys") -> Path:
    """A module `fancytoys` with the metadata that pip would leave of a package."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")
    module = folder / "fancytoys.py"
    module.write_text(code)
    return module


def test_the_records_of_the_package_are_imported_once(toys: Registry[Any]) -> None:
    assert toys.names() == toys.own_names() == ["deep", "top"]
    assert toys.records() == {"deep": 2, "top": 1}
    assert toys.get("deep") == 2
    toys.check_reachable("deep")


def test_a_name_can_be_taken_only_once(toys: Registry[Any]) -> None:
    assert toys.get("top") == 1
    with pytest.raises(ValueError, match="a toy named 'top' is registered already"):
        toys.add("top", 3)
    assert toys.get("top") == 1


def test_an_unknown_name_is_told_the_nearest(toys: Registry[Any]) -> None:
    with pytest.raises(UserError, match="unknown toy 'depe'; did you mean deep"):
        toys.get("depe")


def test_what_this_process_registers_is_out_of_workers_reach(toys: Registry[Any]) -> None:
    def register(name: str) -> None:
        toys.add(name, 3)

    register("mine")
    assert toys.get("mine") == 3
    with pytest.raises(UserError, match=r"this process alone.* name it, toy path/to/file.py:NAME, .*\(workers 0\)"):
        toys.check_reachable("mine")
    with naming_flags(), pytest.raises(UserError, match=r"it, --toy path/to/file.py:NAME, .*\(--workers 0\)"):
        toys.check_reachable("mine")


def test_a_users_file(toys: Registry[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine" / "toy.py"
    file.parent.mkdir()
    file.write_text("class Bear: pass\nWORD = 'text'\ndef word(): pass\n")
    monkeypatch.chdir(tmp_path)
    pinned = toys.pin("mine/toy.py:Bear")
    assert pinned == toys.pin(pinned) == f"{file}:Bear@{digest_of(file)}"
    assert code_identity(pinned) == f"Bear@{digest_of(file)}"
    assert code_label(pinned) == "Bear"
    assert split_digest(pinned) == (f"{file}:Bear", digest_of(file))
    name, bear = toys.get(pinned)
    assert (name, bear.__name__) == (code_identity(pinned), "Bear")
    assert toys.get("mine/toy.py:Bear")[1] is bear
    assert toys.get(code_identity(pinned))[1] is bear
    assert "mine" not in " ".join(toys.names())


def test_a_place_is_remembered_and_nothing_is_executed(toys: Registry[Any], tmp_path: Path) -> None:
    file = tmp_path / "toy.py"
    file.write_text("raise RuntimeError('executed')\n")
    pinned = f"{file}:Bear@{digest_of(file)}"
    assert toys.locate(pinned) == pinned
    with pytest.raises(UserError, match=r"toy file .*toy.py fails to import: RuntimeError: executed \(line 1\)"):
        toys.get(code_identity(pinned))
    file.write_text("class Bear: pass\n")
    with pytest.raises(UserError, match=f"has changed.*{digest_of(file)} now"):
        toys.get(code_identity(pinned))


def test_a_file_elsewhere_with_the_same_content_is_the_same(toys: Registry[Any], tmp_path: Path) -> None:
    files = [tmp_path / folder / "toy.py" for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text("def car(): pass\n")
    assert len({code_identity(toys.pin(f"{file}:car")) for file in files}) == 1
    files[1].write_text("def car(): return 1\n")
    assert len({code_identity(toys.pin(f"{file}:car")) for file in files}) == 2


def test_a_module_beside_the_file_counts(toys: Registry[Any], tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SIZE = 1\n")
    (tmp_path / "toy.py").write_text("from helper import SIZE\ndef car(): return SIZE\n")
    before = toys.pin(f"{tmp_path}/toy.py:car")
    (tmp_path / "helper.py").write_text("SIZE = 2\n")
    assert code_identity(toys.pin(f"{tmp_path}/toy.py:car")) != code_identity(before)


def test_a_changed_file_is_refused(toys: Registry[Any], tmp_path: Path) -> None:
    file = tmp_path / "toy.py"
    file.write_text("def car(): return 1\n")
    pinned, before = toys.pin(f"{file}:car"), digest_of(file)
    toys.get(pinned)
    file.write_text("def car(): return 2\n")
    with pytest.raises(UserError, match=rf"toy file .*toy.py has changed \({before} then, {digest_of(file)} now\)"):
        toys.get(pinned)
    with pytest.raises(UserError, match="has changed since this process executed it; start Python anew"):
        toys.get(f"{file}:car")


@pytest.mark.parametrize(("name", "message"), [
    ("none.py:Bear", "there is no file"),
    ("toy.py:Baer", "did you mean Bear"),
    ("toy.py", "write path/to/file.py:function"),
    ("Bear@0123456789ab", "which file is not known here; name it as path/to/file.py:Bear"),
])  # fmt: skip
def test_what_cannot_be_found(
    toys: Registry[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "toy.py").write_text("class Bear: pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        toys.get(name)


def test_an_entry_point_of_an_installed_package(toys: Registry[Any], tmp_path: Path) -> None:
    module = install(tmp_path, "fancy = fancytoys:Doll\nbroken = fancytoys:Nothing\nother = fancytoys:WORD",
                     "class Doll: pass\nWORD = 'text'\n")  # fmt: skip
    assert toys.names() == ["broken", "deep", "fancy", "other", "top"]
    assert toys.own_names() == ["deep", "top"]
    identity = f"fancy@{digest_of(module)}"
    assert toys.pin("fancy") == toys.pin(identity) == code_identity(identity) == identity
    name, doll = toys.get("fancy")
    assert (name, doll.__name__) == (identity, "Doll")
    assert toys.get(identity)[1] is doll
    toys.check_reachable("fancy")
    with pytest.raises(UserError, match="toy broken of the installed package fancy-toys cannot be loaded: Attribute"):
        toys.get("broken")
    with pytest.raises(UserError, match="is a text"):
        toys.get("other")
    with pytest.raises(UserError, match=r"toy fancy of the installed package fancy-toys has changed \(0123456789ab"):
        toys.get("fancy@0123456789ab")


def test_a_package_cannot_take_a_name_of_ours(toys: Registry[Any], tmp_path: Path) -> None:
    install(tmp_path, "top = fancytoys:Doll", "class Doll: pass\n")
    with pytest.raises(UserError, match="package fancy-toys brings a toy named 'top', and that name is taken"):
        toys.names()
    assert toys.get("top") == 1
