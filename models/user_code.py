"""A user's own functions, `path/to/file.py:function`, whose folder comes first for their own imports.

A user's folder may hold packages of the same names as ours (`models`, `search`, `utils`). It is therefore made a
package of its own in `sys.modules`, under a name that nobody else uses, and an import that is executed by one of its
files is looked up inside that package first. Who asks decides what is found: nothing is swapped in and out, so it
holds at import time, inside functions and `forward` at any later time, in threads and in worker processes alike.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import UserError, unknown

_PREFIX = "_ratio_search_user_"
# A user's folder of one of these names wins even without an __init__.py; any other name is found as Python finds it.
_OURS = frozenset({"models", "methods", "search", "run_search"})
_LOCK = threading.RLock()
_python_import = builtins.__import__
_python_import_module = importlib.import_module


def is_user_spec(spec: str) -> bool:
    """Whether `spec` has the form `path/to/file.py:function`."""
    path, colon, _ = spec.rpartition(":")
    return bool(colon) and path.endswith(".py")


def split_spec(spec: str, what: str) -> tuple[Path, str]:
    """The absolute file and the function's name; UserError if there is no such file."""
    path, _, function = spec.rpartition(":")
    file = Path(path).expanduser().resolve()
    if not path.endswith(".py") or not function:
        raise UserError(f"{what} {spec!r} is not of the form path/to/file.py:function")
    if not file.is_file():
        raise UserError(f"{what} {spec!r}: there is no file {file}")
    return file, function


def load_function(spec: str, what: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` names; the file is executed once per process.

    Raises:
        UserError: no such file or function, or the file fails to import (with its own error and line).
    """
    file, name = split_spec(spec, what)
    module = _load_file(file, what)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise (
            unknown(f"function of {file}", name, known)
            if known
            else UserError(f"{what} {spec!r}: {file} defines no function {name!r}")
        )
    return function


def call_user(spec: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a user's function; what it raises becomes a UserError with its own error and line."""
    try:
        return function(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{spec} failed: {_described(error, split_spec(spec, 'function')[0])}") from error


def _load_file(file: Path, what: str) -> ModuleType:
    with _LOCK:
        _install()
        package = _package(file.parent)
        name = f"{package}.{file.stem.replace('.', '_')}"
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__ == str(file):
            return loaded
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise UserError(f"{what} file {file} fails to import: {_described(error, file)}") from error
        return module


def _package(root: Path) -> str:
    """The name of the package that stands for a user's folder, made at its first use."""
    name = _PREFIX + hashlib.sha256(str(root).encode()).hexdigest()[:16]
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(root)]
        package.__package__ = name
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        package.__spec__.submodule_search_locations = package.__path__
        sys.modules[name] = package
    return name


def _described(error: BaseException, file: Path) -> str:
    """The error's own text and the last line of the user's folder that led to it."""
    message = f"{type(error).__name__}: {_public(str(error))}"
    if isinstance(error, SyntaxError) and error.filename:
        message = f"{type(error).__name__}: {error.msg}"
        return f"{message} ({_place(error.filename, error.lineno, file)})"
    folder = str(file.parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(folder)]
    return f"{message} ({_place(frames[-1].filename, frames[-1].lineno, file)})" if frames else message


def _place(filename: str, line: int | None, file: Path) -> str:
    return f"line {line}" if Path(filename) == file else f"line {line} of {filename}"


def _install() -> None:
    """Put the two hooks in place; they pass on whatever is not asked by a user's file."""
    if builtins.__import__ is not _import:
        builtins.__import__ = _import
        importlib.import_module = _import_module


def _package_of(namespace: Mapping[str, Any] | None) -> str | None:
    """The user's package that the code with these globals belongs to."""
    name = namespace.get("__name__") if namespace else None
    if not isinstance(name, str) or not name.startswith(_PREFIX):
        return None
    return name.partition(".")[0]


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` that asks first which file executes the import statement."""
    package = _package_of(sys._getframe(1).f_globals if globals is None else globals)
    if package is None or level or not _is_users(package, name.partition(".")[0]):
        return _python_import(name, globals, locals, fromlist, level)
    try:
        module = _python_import(f"{package}.{name}", globals, locals, fromlist, 0)
    except ModuleNotFoundError as error:
        raise _renamed(error) from None
    # `import a.b` binds a, `from a.b import c` needs a.b
    return module if fromlist else sys.modules[f"{package}.{name.partition('.')[0]}"]


def _import_module(name: str, package: str | None = None) -> ModuleType:
    """`importlib.import_module` with the same rule."""
    users = _package_of(sys._getframe(1).f_globals)
    anchor = package if name.startswith(".") else name
    if users is None or not anchor or not _is_users(users, anchor.partition(".")[0]):
        return _python_import_module(name, package)
    try:
        if name.startswith("."):
            return _python_import_module(name, f"{users}.{package}")
        return _python_import_module(f"{users}.{name}")
    except ModuleNotFoundError as error:
        raise _renamed(error) from None


def _is_users(package: str, top: str) -> bool:
    """Whether the user's folder provides the top-level module `top`."""
    if f"{package}.{top}" in sys.modules:
        return True
    spec = PathFinder.find_spec(f"{package}.{top}", sys.modules[package].__path__)
    if spec is None:
        return False
    if spec.origin is None:  # a folder without __init__.py: elsewhere, a real package comes before it
        return top in _OURS or not _exists_elsewhere(top)
    loaded = sys.modules.get(top)  # e.g. a user's file that lies beside our own packages
    return getattr(loaded, "__file__", None) != spec.origin


def _exists_elsewhere(top: str) -> bool:
    if top in sys.modules:
        return True
    spec = importlib.util.find_spec(top)
    return spec is not None and spec.origin is not None


def _public(text: str) -> str:
    """The text without the names of the packages that stand for users' folders."""
    while (start := text.find(_PREFIX)) >= 0:
        end = start + len(_PREFIX) + 16
        text = text[:start] + text[end + 1 if text[end : end + 1] == "." else end :]
    return text


def _renamed(error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(_public(str(error)), name=_public(error.name or ""), path=error.path)
