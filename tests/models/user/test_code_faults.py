"""A user's method is imported by us and imports ours; what it raises later is said with its own line."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods.base import MethodInfo
from models.errors import UserError
from models.user.code import describe_users_fault, load_function


@pytest.mark.parametrize("packaged", [False, True])
def test_a_method_in_a_folder_called_methods_imports_ours(tmp_path: Path, packaged: bool) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    if packaged:
        (folder / "__init__.py").write_text("")
    (folder / "sizes.py").write_text("SIZE = 7\n")
    (folder / "mine.py").write_text(
        "from methods.base import MethodInfo\nimport methods.sizes\n"
        "def build(): return MethodInfo, methods.sizes.SIZE\n"
    )
    assert load_function(f"{folder}/mine.py:build", "method")() == (MethodInfo, 7)


def test_what_neither_has_is_missing(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text("import methods.nowhere\n")
    with pytest.raises(UserError, match=r"No module named 'methods.nowhere' \(line 1\)"):
        load_function(f"{tmp_path}/methods/mine.py:build", "method")


def test_a_fault_of_a_users_code_names_its_deepest_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import json\n\ndef inner(text):\n    return json.loads(text)\n\ndef outer():\n    inner('{')\n")
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        load_function(f"{file}:outer", "strategy")()
    assert describe_users_fault(caught.value).startswith(f"{file} failed: JSONDecodeError: Expecting property name")
    assert describe_users_fault(caught.value).endswith("(line 4)")


def test_a_fault_of_ours_is_no_users() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert describe_users_fault(caught.value) is None
