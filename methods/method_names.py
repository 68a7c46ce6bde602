"""Names of several methods as one: `first+second`, `a-or-b` and `first+a-or-b`, in which `-or-` binds closer."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import zip_longest

from models.user.code import is_user_spec
from models.user.pinned_code import code_label

_JOINTS = re.compile(r"(\+|-or-)")


def split_name(name: str) -> list[list[str]]:
    """`obs+tucker-or-kse` -> `[["obs"], ["tucker", "kse"]]`; a joint may be part of the path of a user's file."""
    places: list[list[str]] = [[]]
    pieces, path = _JOINTS.split(name), ""
    for text, joint in zip_longest(pieces[::2], pieces[1::2], fillvalue=""):
        path += text
        if joint and "/" in path and not is_user_spec(path):
            path += joint
            continue
        places[-1].append(path)
        path = ""
        if joint == "+":
            places.append([])
    return places


def split_parts(name: str) -> list[str]:
    """The methods of which a name speaks: `["obs", "tucker", "kse"]`."""
    return [part for place in split_name(name) for part in place]


def rename_parts(name: str, rename: Callable[[str], str]) -> str:
    """The name with each method called otherwise."""
    return "+".join("-or-".join(rename(part) for part in place) for place in split_name(name))


def method_label(identity: str) -> str:
    """The name that options and sites begin with: `l1+MyMethod`."""
    return rename_parts(identity, code_label)
