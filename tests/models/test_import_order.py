"""Imports within models/ run one way, those inside functions and for type checkers included."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import models

ROOT = Path(models.__file__).parent
# Each layer may import from itself and from those before it.
LAYERS = (
    ("deferred_code", "devices", "errors", "notices", "paths", "wording", "locks", "settings", "tensor_digest"),
    ("execution",),
    ("user",),
    ("registry", "task_config"),
    ("networks", "data", "checkpoints"),
    ("dense_network",),
    ("task", "tasks"),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported_modules(file: Path) -> set[str]:
    """Modules of ours, and names in them, that a file imports anywhere."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file} imports relative to itself"
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in modules if module.split(".")[0] in ("models", "methods", "search", "run_search")}


FILES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts): file
    for file in ROOT.rglob("*.py")
    if file.name != "__init__.py"
}
ARROWS = {name: imported_modules(file) for name, file in FILES.items()}


def test_every_file_and_folder_has_its_layer() -> None:
    assert {name.split(".")[1] for name in FILES} == set(RANKS)


def test_no_file_imports_from_a_layer_above_or_from_outside() -> None:
    wrong = [
        f"{name} -> {target}"
        for name, targets in ARROWS.items()
        for target in targets
        if not target.startswith("models.") or RANKS[target.split(".")[1]] > RANKS[name.split(".")[1]]
    ]
    assert not wrong


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: targets & FILES.keys() for name, targets in ARROWS.items()}).prepare()  # CycleError
