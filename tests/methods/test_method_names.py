"""Names of several methods as one."""

from __future__ import annotations

import pytest

from methods.method_names import method_label, rename_parts, split_name


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("l1", [["l1"]]),
        ("obs+tucker", [["obs"], ["tucker"]]),
        ("tucker-or-kse", [["tucker", "kse"]]),
        ("obs+tucker-or-kse-or-svd", [["obs"], ["tucker", "kse", "svd"]]),
        ("l1+", [["l1"], [""]]),
        ("bn-scale+kernel-clustering", [["bn-scale"], ["kernel-clustering"]]),
        ("/c++/one-or-two/m.py:My-or-kse", [["/c++/one-or-two/m.py:My", "kse"]]),
        ("l1+./a-or-b/m.py:My@0123456789ab", [["l1"], ["./a-or-b/m.py:My@0123456789ab"]]),
        ("l1+a/b", [["l1"], ["a/b"]]),
    ],
)
def test_split(name: str, places: list[list[str]]) -> None:
    assert split_name(name) == places
    assert rename_parts(name, str) == name


def test_label_has_neither_paths_nor_digests() -> None:
    assert method_label("obs+kse-or-/a+b/m.py:My@0123456789ab") == "obs+kse-or-My"
