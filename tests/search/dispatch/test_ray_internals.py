"""Ray Tune whose private names are others: the search ends with the same outcomes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import ray
from dispatch_fakes import expected_accuracy
from ray.air.execution.resources import placement_group, request

from search.dispatch.ray_internals import leave_when_stopped

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.slow]
HELPERS = Path(__file__).parents[1]
ROOT = HELPERS.parents[1]

METHODS = ["TuneController", "_maybe_cache_trial_actor", "_maybe_reuse_cached_actor"]
ATTRIBUTES = [
    "_actor_manager", "_trial_to_actor", "_actor_cache", "total_max_objects", "increase_max", "_resetting_trials",
    "is_actor_started", "temporary_state", "ray_actor",
]  # fmt: skip

# Ray's sources are renamed as they are imported, definitions and uses alike.
DRIVER = """
import importlib.machinery, json, re, sys

names = sys.argv[1].split(",")
pattern = re.compile(r"\\b(" + "|".join(names) + r")\\b")
renamed = set()

class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        text = self.get_data(self.path).decode()
        renamed.update(pattern.findall(text))
        return compile(pattern.sub(r"\\1_as_it_is_called_now", text), self.path, "exec", dont_inherit=True)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith(("ray.tune", "ray.air")):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec

sys.meta_path.insert(0, Finder)
import dispatch_fakes as fakes
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch
from ray import cloudpickle

cloudpickle.register_pickle_by_value(fakes)
options = {1: {"die_once": sys.argv[2]}, 3: {"crash": "SIGSEGV"}}
source = fakes.ListSource([fakes.candidate(i, **options.get(i, {})) for i in range(6)])
dispatch(source, fakes.factory, Resources(workers=2))
assert renamed == set(names), set(names) - renamed
print(json.dumps({i: [outcome.score, outcome.reason] for i, outcome in source.outcomes.items()}))
"""


@pytest.mark.parametrize("names", [METHODS + ATTRIBUTES, ATTRIBUTES, METHODS[1:]], ids=["all", "attributes", "methods"])
def test_renamed_internals_change_no_outcome(names: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)])}
    command = [sys.executable, "-c", DRIVER, ",".join(names), str(tmp_path / "died")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == 6
    for seed, (accuracy, reason) in outcomes.items():
        if seed == "3":
            assert reason.startswith("its worker died 2 times: SIGSEGV in search/dispatch_fakes.py:")
        else:
            assert (accuracy, reason) == (expected_accuracy(int(seed)), None)


class Left(BaseException):
    """Raised to end Tune's loop."""


class FinalizedLater:
    """In a circle of references, as Tune's manager of resources is: finalized when Python's collector runs."""

    itself: FinalizedLater | None = None

    def __init__(self, finalize: Callable[[], object]) -> None:
        self._finalize = finalize

    def __del__(self) -> None:
        self._finalize()


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (ray, "cluster_resources"),
        (ray.util, "remove_placement_group"),
        (request, "placement_group"),
        (placement_group, "remove_placement_group"),
    ],
)
def test_after_a_stop_tune_asks_rays_gcs_for_nothing(module: ModuleType, function: str) -> None:
    asked = list[str]()
    stop = threading.Event()
    with mock.patch.object(module, function, asked.append):
        with leave_when_stopped(stop, Left):
            getattr(module, function)("before")
            stop.set()
            with pytest.raises(Left):
                getattr(module, function)("after the stop")
            holder = FinalizedLater(lambda: getattr(module, function)("by a finalizer"))
            holder.itself = holder
            del holder
        getattr(module, function)("in the next search")
    gc.collect()
    assert asked == ["before", "in the next search"]
