"""Imports run one way, in the order below, and in no circle; every module can be imported by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the command line down. A module may import what stands in its own line (but in no circle) or further down.
LAYERS = (
    ("run_search", "search.terminal"),
    ("search.api", "search.api_objects", "search.carry_out", "search.lookups", "search.observer", "search.screens"),
    ("search.kit",),
    ("search.export", "search.leaderboard", "search.report"),
    ("search.engine",),
    ("search.settings",),
    (
        "search.strategies",
        "search.judge",
        "search.dispatch",
        "search.ledger",
        "search.latency",
        "search.results",
        "search.ranking",
    ),
    ("search.allocation", "search.candidate", "search.recipe"),
    ("search.files", "search.machine"),
    ("methods",),
    ("models",),
)
# Arrows against the order, each with its reason.
EXCEPTIONS = {
    ("search.screens", "search.terminal.observer"): "a notebook has the library alone, and asks it to show progress",
}


def module_files() -> dict[str, Path]:
    """Every module of the repository's packages, by name."""
    files = [ROOT / "run_search.py", *(path for name in ("search", "methods", "models") for path in
                                       (ROOT / name).rglob("*.py"))]  # fmt: skip
    names = {}
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = module_files()


def imported_modules(name: str, *, while_loading: bool = False) -> Iterator[str]:
    """Modules of ours that a module imports: at its top, inside functions and for type checkers alike.

    Args:
        while_loading: leave out what is imported inside functions or for type checkers alone.
    """
    for node in walk(ast.parse(MODULES[name].read_text(encoding="utf-8")), while_loading):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in MODULES:
                    yield submodule
                elif node.module in MODULES:
                    yield node.module


def walk(tree: ast.AST, while_loading: bool) -> Iterator[ast.AST]:
    """The nodes of a module, in part without bodies that do not run while it is loaded."""
    for node in ast.iter_child_nodes(tree):
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (while_loading and lazy):
            yield node
            yield from walk(node, while_loading)


def layer_of(module: str) -> int:
    """The line of `LAYERS` that a module stands in; its package's."""
    for index, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return index
    raise AssertionError(f"{module} has no place in LAYERS")


ARROWS = {
    (module, other)
    for module in MODULES
    for other in imported_modules(module)
    if module != "search" and other != "search"
}


def test_no_arrow_runs_against_the_order() -> None:
    upward = {(one, other) for one, other in ARROWS if layer_of(one) > layer_of(other)}
    assert upward - EXCEPTIONS.keys() == set()
    assert EXCEPTIONS.keys() - upward == set(), "an exception that is not needed any more"


def test_no_circle() -> None:
    """Modules that nothing is left to import, or that nothing left imports, are taken away: only circles stay."""
    arrows = {(one, other) for one, other in ARROWS - EXCEPTIONS.keys() if one != other}
    while True:
        importing, imported = {one for one, _ in arrows}, {other for _, other in arrows}
        inside = {(one, other) for one, other in arrows if one in imported and other in importing}
        if inside == arrows:
            break
        arrows = inside
    assert not arrows


@pytest.mark.parametrize("package", ["run_search", "search.terminal", "search", "methods", "models"])
def test_every_module_can_be_imported_first(package: str) -> None:
    """Without a circle, imports at the top work in any order; so one process loads each module with the others gone."""
    names = [name for name in MODULES if name == package or name.startswith(f"{package}.")]
    program = (
        "import importlib, sys\n"
        "ours = ('run_search', 'search', 'methods', 'models')\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [each for each in sys.modules if each.split('.')[0] in ours]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
