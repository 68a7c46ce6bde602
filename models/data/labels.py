"""Labels as people have them (counted from 1, with gaps, names, booleans) as classes 0 to classes - 1."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import UserError
from models.notices import add_notice

Array = npt.NDArray[Any]
Label = int | str
_SHOWN = 8  # labels that a sentence lists


def read_labels(y_train: Array, y_test: Array, source: str) -> tuple[list[npt.NDArray[np.int64]], tuple[Label, ...]]:
    """Class numbers of both parts, and the labels in order of their classes; empty where these are the same.

    Classes are the labels of both parts in ascending order, so every process that reads the data has the same ones.

    Raises:
        UserError: labels that name no classes, or one class only.
    """
    labels_by_name = {
        "y_train": _plain_labels(y_train, f"y_train of {source}"),
        "y_test": _plain_labels(y_test, f"y_test of {source}"),
    }
    if len({labels.dtype.kind == "U" for labels in labels_by_name.values()}) > 1:
        types = " and ".join(f"{name} {labels.dtype}" for name, labels in labels_by_name.items())
        raise UserError(f"labels of {source} are of different types, {types}; give both in the same")
    present = {name: set(labels.tolist()) for name, labels in labels_by_name.items()}
    _check_classes(present["y_train"], len(y_train), source)
    names: list[Label] = sorted(present["y_train"] | present["y_test"])
    if mapped := names != list(range(len(names))):
        what = "names" if isinstance(names[0], str) else "labels"
        add_notice(f"{what} {list_labels(names)} are classes 0 to {len(names) - 1}, in this order")
    for name, images in (("y_train", "training"), ("y_test", "test")):
        tell_missing_classes(names, present[name], f"{images} image: missing from {name}")
    if not mapped:
        return [labels.astype(np.int64) for labels in labels_by_name.values()], ()
    ordered = np.asarray(names)
    return [np.searchsorted(ordered, labels).astype(np.int64) for labels in labels_by_name.values()], tuple(names)


def tell_missing_classes(classes: Sequence[Label], present: Container[Label], images: str) -> None:
    """Say which classes have no `images`, one of which is named: "training picture"."""
    missing = [label for label in classes if label not in present]
    if missing:
        subject, verb = ("class", "has") if len(missing) == 1 else ("classes", "have")
        add_notice(f"{subject} {list_labels(missing)} {verb} no {images}")


def list_labels(labels: Sequence[Label]) -> str:
    """The first few of them, and how many there are."""
    if len(labels) <= _SHOWN:
        return ", ".join(map(str, labels))
    return f"{', '.join(map(str, labels[: _SHOWN - 1]))}, ... {labels[-1]} ({len(labels)} in all)"


def _plain_labels(labels: Array, what: str) -> Array:
    """(N,) of int64 or text; UserError for anything else."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    is_matrix = labels.ndim == 2 and labels.dtype.kind in "buif"
    if is_matrix and np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all():
        raise UserError(f"{what} is one-hot, of shape {labels.shape}; give {what.split()[0]}.argmax(1)")
    if labels.ndim != 1:
        raise UserError(f"{what} has shape {labels.shape}; labels must be of shape (N,), one for every image")
    if labels.dtype.kind == "T":  # numpy's StringDType
        labels = labels.astype(object)
    if labels.dtype.kind == "O":
        labels = _labels_of_objects(labels, what)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "f":  # CSV readers make floats of whole numbers; 1.5 is a value to regress, and no class
        odd = np.flatnonzero(~np.isfinite(labels) | (labels != np.round(labels)))
        if len(odd):
            value = labels[odd[0]]
            raise UserError(f"{what} holds {value:g} at position {odd[0]}; labels must be whole numbers or names")
    if labels.dtype.kind not in "buifU":
        raise UserError(f"{what} has type {labels.dtype}; labels must be whole numbers or names")
    if labels.dtype.kind in "uf" and len(labels) and float(np.abs(labels).max()) >= 2**63:
        raise UserError(f"{what} holds {labels.max():g}; labels must fit into 64 bits")
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def _labels_of_objects(labels: Array, what: str) -> Array:
    """Text or whole numbers that came as Python objects, as from a column of pandas."""
    for kind, dtype in ((str, np.str_), ((int, np.integer, bool), np.int64)):
        if all(isinstance(label, kind) for label in labels.tolist()):
            return labels.astype(dtype)
    values = labels.tolist()
    expected = str if isinstance(values[0], str) else (int, np.integer)
    position = next((i for i, value in enumerate(values) if not isinstance(value, expected)), 0)
    raise UserError(
        f"{what} holds Python objects ({type(values[position]).__name__}), the first at position {position}; "
        "labels must be whole numbers or names"
    )


def _check_classes(labels: set[Label], count: int, source: str) -> None:
    """UserError for training labels of which no classifier can be learned."""
    if len(labels) < 2:
        raise UserError(
            f"y_train of {source} holds one class only ({list_labels(list(labels))}); there must be at least two"
        )
    if len(labels) == count and count > 2:
        raise UserError(f"y_train of {source} has another label for every one of its {count:,} images; give classes")
