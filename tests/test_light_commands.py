"""What lists and helps needs no heavy library, and lists all that there is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import methods
import search.strategies
from methods.base import Compressor, MethodInfo
from methods.registry import method_info
from models.deferred_code import DeferredCode
from search.strategies.registry import find_strategy, strategy_infos

ROOT = Path(__file__).resolve().parents[1]
HEAVY = "torch torchvision optuna ray pandas numpy scipy sklearn sqlalchemy plotly"
PROGRAM = """
import sys
import run_search
heavy = sys.argv.pop(1).split()
try:
    run_search.main()
finally:
    print("LOADED", *(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


def heavy_imports(heavy: str, *arguments: str) -> list[str]:
    """Those of the named modules that a command has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, heavy, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    first, *names = done.stderr.split()
    assert first == "LOADED"
    return names


@pytest.mark.parametrize("arguments", [
    ["--help"], ["plan", "--help"], ["methods"], ["methods", "--json"], ["networks"], ["strategies"],
], ids=" ".join)  # fmt: skip
def test_no_heavy_library_is_imported(arguments: list[str]) -> None:
    assert heavy_imports(HEAVY, *arguments) == []


def test_a_plan_of_our_own_network_needs_torch_alone() -> None:
    heavy = "torch torchvision torch._dynamo optuna ray pandas sqlalchemy scipy.optimize sklearn plotly"
    assert heavy_imports(heavy, "plan", "--network", "small", "--data", "digits") == ["torch"]


def import_modules(package: ModuleType) -> list[ModuleType]:
    """Every module of a package."""
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [importlib.import_module(name) for name in names]


def test_every_method_has_its_record() -> None:
    """Each class that says what it is, found by importing all files, is listed as it says."""
    classes = {value for module in import_modules(methods) for value in vars(module).values() if inspect.isclass(value)}
    compressors = [cls for cls in classes if issubclass(cls, Compressor)]
    stated = [cls.info for cls in compressors if isinstance(cls.__dict__.get("info"), MethodInfo)]
    assert {info.name for info in stated} >= {"kse", "resrep", "kernel-clustering"}
    for info in stated:
        assert method_info(info.name) is info


def test_every_strategy_has_its_record() -> None:
    """Each generator function that takes a problem and nothing else, found by importing all files, is listed."""
    functions = {
        function
        for module in import_modules(search.strategies)
        for name, function in vars(module).items()
        if inspect.isgeneratorfunction(function) and not name.startswith("_")
        and list(inspect.signature(function).parameters) == ["problem"]
    }  # fmt: skip
    recorded = [find_strategy(name)[1] for name in strategy_infos()]
    assert {propose.load() for propose in recorded if isinstance(propose, DeferredCode)} == functions
