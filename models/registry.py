"""Things by name: what a package of ours holds, what installed packages bring along, and a user's own files.

A registry knows three kinds of names:

    l1                           recorded by a `records.py` of the registry's package, each of which is imported once
    fancy                        an entry point of an installed package, in the registry's group
    path/to/file.py:MyMethod     a user's own file

A `records.py` says where the code is that it records (`models.deferred_code`): what there is can be listed, and names
can be checked, without importing any of it.

`pin` makes a name of the last two kinds one that stands for a content (`models.user.pinned_code`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Generic, TypeVar

from models.errors import UserError, first_line, unknown_name
from models.settings import setting_name
from models.user.code import is_user_module, is_user_spec
from models.user.pinned_code import code_identity, file_digest, load_pinned, pin_file, split_digest

Record = TypeVar("Record")


class Registry(Generic[Record]):
    """Records by name."""

    def __init__(self, kind: str, *, package: str, group: str, read_record: Callable[[str, Any], Record]) -> None:
        """
        Args:
            kind: what the records are, in the words of messages: `method`.
            package: whose files named `records.py`, in any of its folders, record what it holds.
            group: of entry points.
            read_record: makes a record of the name and the object that an entry point or a user's file holds;
                UserError if it is none.
        """
        self.kind, self.package, self.group = kind, package, group
        self._read_record = read_record
        self._records: dict[str, Record] = {}
        self._local: set[str] = set()  # recorded by code outside of the package: other processes do not know them
        self._identified: dict[str, Record] = {}  # of pinned names, by identity
        self._pinned: dict[str, str] = {}  # identity -> pinned name of a file, executed only when it is asked for
        self._imported = False

    def add(self, name: str, record: Record) -> None:
        """Make a record known; a name can be taken only once. To be called by the function that files call."""
        # Two frames up is whoever called `register` or the like: a file of the package, or code of this process.
        caller = sys._getframe(2).f_globals.get("__name__", "")
        if is_user_module(caller):  # goes by its file: copies and versions of one may be loaded beside each other
            return
        if name in self._records:
            raise ValueError(f"a {self.kind} named {name!r} is registered already")
        self._records[name] = record
        if not caller.startswith(f"{self.package}."):
            self._local.add(name)

    def own_names(self) -> list[str]:
        """Names that code has recorded, those of the package and of this process."""
        self._import_package()
        return sorted(self._records)

    def names(self) -> list[str]:
        """Every name but those of files; UserError for one that two packages bring."""
        return sorted({*self.own_names(), *self._entry_points})

    def records(self) -> dict[str, Record]:
        """Every record that goes by a name."""
        return {name: self.get(name) for name in self.names()}

    def get(self, name: str) -> Record:
        """One record; UserError with the closest names if there is none, or if its file cannot be executed."""
        self._import_package()
        if name in self._records:
            return self._records[name]
        if is_user_spec(name):
            return self._pinned_record(self.pin(name), load_pinned)
        if name in self._identified:
            return self._identified[name]
        if name in self._pinned:
            return self._pinned_record(pin_file(self._pinned[name], self.kind), load_pinned)
        plain, digest = split_digest(name)
        if plain in self._entry_points:
            return self._pinned_record(self._pin_entry_point(name), self._load_entry_point)
        if digest is not None:
            raise UserError(
                f"{self.kind} {name} is in a file of a user's own, and which file is not known here; name it as "
                f"path/to/file.py:{plain}"
            )
        raise unknown_name(self.kind, name, self.names())

    def pin(self, name: str) -> str:
        """The name with what it stands for: of a file or entry point with its digest."""
        if is_user_spec(name):
            return self.locate(pin_file(name, self.kind))
        plain, _ = split_digest(name)
        if name not in self.own_names() and plain in self._entry_points:
            return self._pin_entry_point(name)
        return name

    def locate(self, pinned: str) -> str:
        """Remember where a file's identity is to be found; nothing is executed. Returns the pinned name."""
        self._pinned[code_identity(pinned)] = pinned
        return pinned

    def check_reachable(self, name: str) -> None:
        """UserError for a record that this process alone knows: workers are processes of their own."""
        self._import_package()
        if name in self._local:
            raise UserError(
                f"{self.kind} {name} is registered in this process alone, where workers cannot reach it; put it into a "
                f"file and name it, {setting_name(self.kind)} path/to/file.py:NAME, or judge in this process "
                f"({setting_name('workers')} 0)"
            )

    def _import_package(self) -> None:
        """Import every `records.py` of the package once."""
        if not self._imported:
            for folder in map(Path, importlib.import_module(self.package).__path__):
                for file in sorted(folder.rglob("records.py")):
                    place = ".".join(file.relative_to(folder).with_suffix("").parts)
                    importlib.import_module(f"{self.package}.{place}")
            self._imported = True

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        """Installed ones by name; UserError for a name that is taken."""
        points: dict[str, EntryPoint] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name in points or point.name in self._records:
                raise UserError(
                    f"the installed package {_package_of(point)} brings a {self.kind} named {point.name!r}, "
                    "and that name is taken; uninstall one of the two"
                )
            points[point.name] = point
        return points

    def _pin_entry_point(self, name: str) -> str:
        """An entry point's name with the digest of its module; UserError if it has another digest than it came with."""
        plain, digest = split_digest(name)
        point = self._entry_points[plain]
        with self._reporting_load_errors(point):
            module = importlib.util.find_spec(point.module)
            if module is None or module.origin is None:
                raise ModuleNotFoundError(f"there is no file of {point.module}")
        present = file_digest(Path(module.origin))
        if digest not in (None, present):
            raise UserError(
                f"{self.kind} {plain} of the installed package {_package_of(point)} has changed ({digest} then, "
                f"{present} now); install what the run was begun with, or search anew under another "
                f"{setting_name('name')}"
            )
        return f"{plain}@{present}"

    def _load_entry_point(self, pinned: str, kind: str) -> Any:
        point = self._entry_points[split_digest(pinned)[0]]
        with self._reporting_load_errors(point):
            return point.load()

    @contextmanager
    def _reporting_load_errors(self, point: EntryPoint) -> Iterator[None]:
        """Whatever another package's import raises becomes a UserError that names the package."""
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(
                f"{self.kind} {point.name} of the installed package {_package_of(point)} cannot be loaded: {reason}"
            ) from error

    def _pinned_record(self, pinned: str, load: Callable[[str, str], Any]) -> Record:
        """The record of pinned code, which is found by its identity from then on."""
        identity = code_identity(pinned)
        if identity not in self._identified:
            self._identified[identity] = self._read_record(identity, load(pinned, self.kind))
        return self._identified[identity]


def _package_of(point: EntryPoint) -> str:
    """The installed distribution that an entry point belongs to, for messages."""
    return point.value.partition(":")[0].partition(".")[0] if point.dist is None else point.dist.name
