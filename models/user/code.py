"""A user's own functions, `path/to/file.py:function`, whose folder comes first for their own imports.

A user's folder may hold packages of the same names as ours (`models`, `search`) or as another user's (`utils`). It is
therefore made a package of its own in `sys.modules`, under a name that nobody else uses, and an import that is executed
by one of its files is looked up inside that package first. Who asks decides what is found and nothing is swapped in
and out, so it holds at import time, inside functions and `forward` at any later time, in threads and in workers.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import UserError, first_line, unknown_name
from models.paths import user_path

_PREFIX = "_ratio_search_user_"
_DIGITS = 16  # of the folder's digest, after the prefix
_OURS = frozenset({"models", "methods", "search", "run_search"})
_OUR_ROOT = Path(__file__).resolve().parents[2]
_LOCK = threading.RLock()  # one file is executed at a time; imports need no lock of ours
_path_before: list[str] | None = None  # `sys.path` when the user's code that runs now was entered
_python_import = builtins.__import__
_python_import_module = importlib.import_module


def is_user_spec(spec: str) -> bool:
    """Whether `spec` names a Python file, as `path/to/file.py:function` does."""
    return spec.endswith(".py") or ".py:" in spec


def is_user_module(name: str) -> bool:
    """Whether a module of that name was made of a user's file."""
    return name.startswith(_PREFIX)


def split_spec(spec: str, what: str) -> tuple[Path, str]:
    """The absolute file and the function's name; UserError if there is no such file."""
    path, _, function = spec.rpartition(":")
    if not path.endswith(".py") or not function:
        raise UserError(f"{what} {spec!r} does not name a function; write path/to/file.py:function")
    file = user_path(path).resolve()
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
    if callable(function):
        return function
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not names:
        raise UserError(f"{what} {spec!r}: {file} defines no function {name!r}")
    raise unknown_name(f"function in {file}:", name, names)


def call_user(spec: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function of `load_function`; what it raises becomes a UserError with its own error and line."""
    file, _ = split_spec(spec, "function")
    with _LOCK, _entering_package(_package_for(file.parent)):
        try:
            return function(**arguments)
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise UserError(f"{spec} failed: {_describe_error(error, file)}") from error


def describe_users_fault(error: BaseException) -> str | None:
    """What went wrong in a user's file whose code ours had called; None if none of it was running."""
    frame, place = error.__traceback__, None
    while frame is not None:
        if _package_of(frame.tb_frame.f_globals) is not None:
            place = frame
        frame = frame.tb_next
    if place is None:
        return None
    file = Path(place.tb_frame.f_code.co_filename)
    return f"{file} failed: {type(error).__name__}: {_hide_packages(first_line(error))} (line {place.tb_lineno})"


def _load_file(file: Path, what: str) -> ModuleType:
    """The module of a file, executed unless this process has done so."""
    with _LOCK:
        _install_hooks()
        package = _package_for(file.parent)
        name = f"{package}.{file.stem.replace('.', '_')}"
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__ == str(file):
            return loaded
        # Python lists a folder only when its time changes, which file systems keep to a few milliseconds or a second:
        # a file that was written a moment ago would not be found.
        importlib.invalidate_caches()
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with _entering_package(package):
                spec.loader.exec_module(module)
        except KeyboardInterrupt:
            del sys.modules[name]
            raise
        except BaseException as error:  # `sys.exit`, or a class of the user's own
            del sys.modules[name]
            raise UserError(f"{what} file {file} fails to import: {_describe_error(error, file)}") from error
        return module


def _package_for(root: Path) -> str:
    """The name of the package that stands for a user's folder, made at its first use."""
    name = _PREFIX + hashlib.sha256(os.fsencode(root)).hexdigest()[:_DIGITS]
    if name not in sys.modules:
        package = ModuleType(name)
        package.__package__ = name
        package.__path__ = [str(root)]
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        package.__spec__.submodule_search_locations = package.__path__
        sys.modules[name] = package
    return name


@contextlib.contextmanager
def _entering_package(package: str) -> Iterator[None]:
    """While a user's code runs: its prints do not mix with our output, its `sys.path` entries become its own."""
    global _path_before
    outer, _path_before = _path_before, list(sys.path)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _take_over_path(package)
        _path_before = outer


def _take_over_path(package: str) -> None:
    """Move what the user's code put on `sys.path` behind its own folder: there it cannot hide what others import."""
    if _path_before is not None:
        added = [entry for entry in sys.path if entry not in _path_before]
        path = sys.modules[package].__path__
        path += [entry for entry in added if entry not in path]
        sys.path[:] = [entry for entry in sys.path if entry not in added]


def _describe_error(error: BaseException, file: Path) -> str:
    """The error's kind and text, and the last line of the user's own that led to it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({_line_and_file(error.filename, error.lineno, file)})"
    message = f"{type(error).__name__}: {_hide_packages(first_line(error))}" if str(error) else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(file.parent) and "site-packages" not in frame.filename
    ]
    return f"{message} ({_line_and_file(frames[-1].filename, frames[-1].lineno, file)})" if frames else message


def _line_and_file(filename: str, line: int | None, file: Path) -> str:
    return f"line {line}" if Path(filename) == file else f"line {line} of {filename}"


def _install_hooks() -> None:
    """Put the two hooks in place; they pass on whatever is not asked by a user's file."""
    if builtins.__import__ is not _import_hook:
        builtins.__import__ = _import_hook
        importlib.import_module = _import_module_hook


def _package_of(namespace: Mapping[str, Any] | None) -> str | None:
    """The user's package that the code with these globals belongs to."""
    name = namespace.get("__name__") if namespace else None
    if not isinstance(name, str) or not name.startswith(_PREFIX):
        return None
    return name.partition(".")[0]


def _import_hook(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` that asks first which file executes the import statement."""
    package = _package_of(sys._getframe(1).f_globals if globals is None else globals)
    top = name.partition(".")[0]
    if package is None or level or not _is_users(package, top):
        return _python_import(name, globals, locals, fromlist, level)
    try:
        module = _python_import(f"{package}.{name}", globals, locals, fromlist, 0)
    except ModuleNotFoundError as error:
        if _means_ours(package, name, error):
            return _python_import(name, globals, locals, fromlist, level)
        raise _public_error(error) from None
    return module if fromlist else sys.modules[f"{package}.{top}"]  # `import a.b` binds a


def _import_module_hook(name: str, package: str | None = None) -> ModuleType:
    """`importlib.import_module` with the same rule."""
    users = _package_of(sys._getframe(1).f_globals)
    anchor = (package or "") if name.startswith(".") else name
    if users is None or not anchor or not _is_users(users, anchor.partition(".")[0]):
        return _python_import_module(name, package)
    try:
        if name.startswith("."):
            return _python_import_module(name, f"{users}.{package}")
        return _python_import_module(f"{users}.{name}")
    except ModuleNotFoundError as error:
        raise _public_error(error) from None


def _is_users(package: str, top: str) -> bool:
    """Whether a top-level module `top` is the user's own.

    Its folder comes before everything else. As in Python, a folder without `__init__.py` comes after any real
    package, and so does what the user's code added to `sys.path`; but not after ours, of which it knows nothing.
    """
    if not top or top.startswith(_PREFIX):
        return False
    if f"{package}.{top}" in sys.modules:
        return True
    _take_over_path(package)
    path = sys.modules[package].__path__
    root = Path(path[0])
    path += [str(p.parent) for p in (root, *root.parents) if p.name == top and str(p.parent) not in path]
    spec = PathFinder.find_spec(f"{package}.{top}", path[:1])
    real_in_root = spec is not None and spec.origin is not None
    spec = spec or PathFinder.find_spec(f"{package}.{top}", path[1:])
    if spec is None or _is_ours(spec, top):
        return False
    return real_in_root or top in _OURS or not _exists_elsewhere(top)


def _is_ours(spec: ModuleSpec, top: str) -> bool:
    """Whether it is one of our packages, found because the user's file lies beside them."""
    return top in _OURS and spec.origin is not None and Path(spec.origin).is_relative_to(_OUR_ROOT)


def _means_ours(package: str, name: str, error: ModuleNotFoundError) -> bool:
    """Whether a user's own `methods` lacks a module that ours has: a user's method imports `methods.base`."""
    top, dot, _ = name.partition(".")
    if not dot or top not in _OURS or not f"{package}.{name}".startswith(error.name or "."):
        return False
    return _OUR_ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file()


def _exists_elsewhere(top: str) -> bool:
    """Whether Python itself would find a module with code of that name."""
    if top in sys.modules:
        return True
    spec = importlib.util.find_spec(top)
    return spec is not None and spec.origin is not None


def _hide_packages(text: str) -> str:
    """The text without the names of the packages that stand for users' folders."""
    while (start := text.find(_PREFIX)) >= 0:
        end = start + len(_PREFIX) + _DIGITS
        text = text[:start] + text[end:].removeprefix(".")
    return text


def _public_error(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error as Python would have raised it, by the module's name in the user's own code."""
    return ModuleNotFoundError(_hide_packages(str(error)), name=_hide_packages(error.name or ""), path=error.path)
