"""The names of torchvision's classification networks, read from its files: to import it takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from models.networks.torchvision_import import import_torchvision


@cache
def torchvision_names() -> tuple[str, ...]:
    """In alphabetical order. Asked of torchvision itself if its files decorate no builder with `register_model`."""
    package = importlib.util.find_spec("torchvision")
    folders = [] if package is None else package.submodule_search_locations or []
    # Not of the folders below, which hold detectors, segmenters and quantised networks.
    files = [file for folder in folders for file in (Path(folder) / "models").glob("*.py")]
    names = sorted(name for file in files for name in _registered_names(file))
    if names:
        return tuple(names)
    torchvision = import_torchvision()
    return tuple(torchvision.models.list_models(module=torchvision.models))


def _registered_names(file: Path) -> Iterator[str]:
    """The functions at the top of a file that are decorated with `@register_model()`, or `("name")`."""
    text = file.read_text(encoding="utf-8")
    if "register_model(" not in text:
        return
    for function in (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)):
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register_model":
                given = [*decorator.args, *(keyword.value for keyword in decorator.keywords)]
                yield ast.literal_eval(given[0]) if given else function.name
