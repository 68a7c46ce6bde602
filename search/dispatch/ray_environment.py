"""Ray, imported after the settings that it reads when it is imported; all other modules take `ray` and `tune` here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without GPUs sees none
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C belongs to the search
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the ledger is what a search resumes from
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}
"""Read when Ray is imported, or inherited by the processes that it starts."""
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)


@contextlib.contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """The variable, for what reads it and for processes that are started while this lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


# Ray's client ends its process with exit code 1 (`raylet_ipc_client.cc`) when its connection to the raylet fails and
# the process in RAY_RAYLET_PID is gone. Ray sets that variable for workers alone. A driver without it looks at its
# parent instead, and takes number 1 for a parent that has died; services of systemd and commands in containers have
# that parent from the beginning. With its own number in the variable a driver lives on, and reports.
with environment_variable("RAY_RAYLET_PID", os.environ.get("RAY_RAYLET_PID", str(os.getpid()))):
    import ray
from ray import tune  # noqa: E402

__all__ = ["SETTINGS", "environment_variable", "ray", "tune"]
