"""Ray itself: started on this machine or joined, kept from talking, and gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from models.errors import UserError
from search.dispatch.loop import Resources, describe
from search.host import cores

# Read when Ray is imported, or inherited by the processes that it starts.
QUIET = {
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
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402

OBJECT_STORE = 128 * 2**20  # bytes; what does not fit is kept on disk
CONNECT_TIMEOUT = 10.0  # seconds
CODE = Path(__file__).resolve().parents[2]
PACKAGES = ("search", "methods", "models")


@contextlib.contextmanager
def ray_session(resources: Resources) -> Iterator[None]:
    """Ray for as long as this lasts; around several dispatches it spares them the start. Nests."""
    if ray.is_initialized():
        yield
        return
    with quiet(), scratch("ray") as folder:
        try:
            if resources.ray_address is None:
                _start(resources, folder)
            else:
                _connect(resources.ray_address)
            yield
        finally:
            ray.shutdown()


def _start(resources: Resources, folder: str) -> None:
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CODE), *([path] if path else [])])  # workers inherit it
    try:
        ray.init(
            address="local",
            num_cpus=max(cores(), resources.workers),
            include_dashboard=False,
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE,
            _temp_dir=folder,
        )
    except Exception as error:  # Ray has no kind of its own for a start that fails
        raise UserError(
            f"Ray could not be started ({describe(error)}); try again on a less busy machine, or with --workers 0"
        ) from error
    finally:
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


def _connect(address: str) -> None:
    """Join a running cluster; our code goes along, so that every node runs what this process runs."""
    _check_address(address)
    environment = {"py_modules": [str(CODE / package) for package in PACKAGES], "env_vars": QUIET}
    try:
        ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False, runtime_env=environment)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({describe(error)}); start one with `ray start --head`"
        ) from error


def _check_address(address: str) -> None:
    """Whether somebody listens there; Ray itself would try for five minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise UserError(
            f"cannot read the Ray address {address!r}; give auto, or host:port of the head node (port 6379)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`"
        ) from error


def share(resources: Resources) -> float:
    """Processors for each worker, after a look at whether the cluster has what is asked for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if resources.gpus_per_worker > max(node.get("GPU", 0) for node in nodes):
        raise UserError(
            f"{resources.gpus_per_worker:g} GPUs for each worker were asked for, but the machines here have {gpus:g}"
        )
    return cpus_per_worker([node.get("CPU", 0) for node in nodes], resources.workers)


def cpus_per_worker(nodes: Sequence[float], workers: int) -> int:
    """The most whole processors a worker can have such that all fit on the nodes at once; at least 1."""
    for cpus in range(int(max(nodes, default=1)), 1, -1):
        if sum(int(node) // cpus for node in nodes) >= workers:
            return cpus
    return 1


@contextlib.contextmanager
def scratch(name: str) -> Iterator[str]:
    """A temporary folder; short, because Ray's sockets lie in it and their paths may have 107 characters."""
    parent = "/tmp" if os.path.isdir("/tmp") and os.access("/tmp", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix=f"rs-{name}-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray's own remarks are about trials and dead workers; the search says what became of its candidates."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:  # the raylet's messages are printed, not logged, and would spoil `--json`
        with mock.patch("ray._private.worker.print_to_stdstream", _say_nothing, create=True):
            yield
    finally:
        logger.setLevel(level)


def _say_nothing(*_: object, **__: object) -> None:
    pass
