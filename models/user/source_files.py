"""Which files a user's code consists of: the file that was named, and what it imports from beside itself.

Read from the source alone, so that every process comes to the same answer. What is imported under a computed name, or
from folders that the code adds to `sys.path`, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def own_files(file: Path) -> list[Path]:
    """The file and the modules in its folder that it imports, and theirs, in order of their paths."""
    files, waiting = {file}, [file]
    while waiting:
        for path in _imported_files(waiting.pop(), file.parent):
            if path not in files:
                files.add(path)
                waiting.append(path)
    return sorted(files)


def source_digest(file: Path) -> str:
    """SHA-256 of the file, and of what it imports from beside it if there is anything."""
    files = own_files(file)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    if len(files) == 1:
        return digests[0]
    lines = [f"{os.path.relpath(path, file.parent)} {digest}\n" for path, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _imported_files(file: Path, root: Path) -> Iterator[Path]:
    """Files below or beside `root` that a file's import statements name; some more than once."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # its import says what is wrong with it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(alias.name, _search_folders(alias.name, root))
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            bases = (
                [file.parents[node.level - 1]] if 0 < node.level <= len(file.parents) else _search_folders(name, root)
            )
            for module in (name, *(f"{name}.{alias.name}".strip(".") for alias in node.names)):
                yield from _module_files(module, bases)


def _search_folders(name: str, root: Path) -> list[Path]:
    """Where an absolute import may be found: in the user's folder, or beside a package that the folder lies in."""
    top = name.partition(".")[0]
    return [root, *(folder.parent for folder in (root, *root.parents) if folder.name == top)]


def _module_files(name: str, bases: list[Path]) -> Iterator[Path]:
    """The module's file and the `__init__.py` of every package on the way to it, in the first folder that has it."""
    packages = name.split(".") if name else []
    for base in bases:
        files = []
        for depth in range(len(packages) + 1):
            place = base.joinpath(*packages[:depth])
            if depth and place.with_suffix(".py").is_file():
                files.append(place.with_suffix(".py"))
            elif depth and (place / "__init__.py").is_file():
                files.append(place / "__init__.py")
        if files:
            yield from files
            return
