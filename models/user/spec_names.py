"""What the sentences of messages call a task's network and data.

Objects that Python code hands over get names of our own making (`object:Net@7a16e144a6b3`,
`npz:results/given/arrays-d4407e552f41042f.npz`), which the user has never seen.
"""

from __future__ import annotations

import re
from pathlib import Path

OBJECT_PREFIX = "object:"
GIVEN_FOLDER = "given"  # below results: where images and weights of objects lie
OWN_DATA = "own"  # what a task of a user's own is configured with in place of a data set's name
ARRAYS = "arrays"  # what files of arrays are named after there; those of two data sets after the first one's class


def is_given_network(spec: str) -> bool:
    """Whether a network's name stands for an object."""
    return spec.startswith(OBJECT_PREFIX)


def class_of(spec: str) -> str:
    """The class of the object that a network's name stands for."""
    return spec.removeprefix(OBJECT_PREFIX).partition("@")[0]


def network_name(spec: str) -> str:
    """`resnet20`, or `the network given (Net)` for an object."""
    return f"the network given ({class_of(spec)})" if spec.startswith(OBJECT_PREFIX) else spec


def task_name(spec: str) -> str:
    """`detector.py:build`, or `the task given (Detector)` for an object."""
    return f"the task given ({class_of(spec)})" if spec.startswith(OBJECT_PREFIX) else spec


def network_subject(spec: str) -> str:
    """`network resnet20`, or `the network given (Net)` for an object: how a sentence begins."""
    return network_name(spec) if spec.startswith(OBJECT_PREFIX) else f"network {spec}"


def data_name(spec: str) -> str:
    """`digits`, or `the arrays given` for objects."""
    if spec == OWN_DATA:
        return "the task's own"
    path = Path(spec.removeprefix("npz:"))
    stored = re.fullmatch(r"(.+)-[0-9a-f]{16}\.npz", path.name)
    if stored is None or path.parent.name != GIVEN_FOLDER or not spec.startswith("npz:"):
        return spec
    return objects_name(stored[1])


def objects_name(kind: str) -> str:
    """What `kind`, the beginning of a file's name in the folder of what was given, is called."""
    return "the arrays given" if kind == ARRAYS else f"the data sets given ({kind})"
