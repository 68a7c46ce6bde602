"""Ray itself: started on this machine or joined, kept from talking, and gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

from models.errors import UserError
from search.dispatch.loop import Resources, describe
from search.dispatch.scratch import scratch
from search.dispatch.signals import handlers_kept, reinstall_handlers, uninterrupted
from search.machine.host import cores

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


@contextlib.contextmanager
def _in_environment(name: str, value: str) -> Iterator[None]:
    """The variable, for what reads it and for processes that are started while this lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


# Ray's client ends its process at once, with exit code 1 (`raylet_ipc_client.cc`), when its connection to the raylet
# fails and the process in RAY_RAYLET_PID is gone. Without that variable, which Ray gives to workers alone, it looks at
# its parent instead, and takes number 1 for a parent that has died; services of systemd and commands in containers have
# that parent from the beginning. With its own number a driver lives on, and reports. Ray reads it when it is imported.
with _in_environment("RAY_RAYLET_PID", os.environ.get("RAY_RAYLET_PID", str(os.getpid()))):
    import ray
from ray._private import services  # noqa: E402
from ray._private.state import state  # noqa: E402

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
    stack = contextlib.ExitStack()
    try:
        folder = stack.enter_context(scratch("ray"))
        stack.enter_context(quiet())
        stack.callback(_shut_down)
        with handlers_kept():
            if resources.ray_address is None:
                _start(resources, folder)
            else:
                _connect(resources.ray_address)
        yield
    finally:
        with uninterrupted():
            stack.close()


def _start(resources: Resources, folder: str) -> None:
    path = os.environ.get("PYTHONPATH")
    ours = _in_environment("PYTHONPATH", os.pathsep.join([str(CODE), *([path] if path else [])]))  # workers inherit it
    try:
        with ours, _on_loopback(), _in_own_group(), _without_sigterm_handler():
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


def _shut_down() -> None:
    """End Ray, with our handlers in force while it waits for its processes.

    Before that wait, which takes a second, Ray's logging resets SIGTERM to the system's own handler
    (`RayLog::UninstallSignalAction`), and Python does not notice: `timeout` or a second signal would kill this process.
    """
    disconnect = getattr(state, "disconnect", None)

    def disconnect_and_handle() -> None:  # what Ray does next
        reinstall_handlers()
        if disconnect is not None:
            disconnect()

    with mock.patch.object(state, "disconnect", disconnect_and_handle, create=True):
        ray.shutdown()
    reinstall_handlers()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray started meanwhile listens on 127.0.0.1 alone, as it does by itself on macOS and Windows.

    There it is for firewalls that ask (Ray issue 18730). `_node_ip_address="127.0.0.1"` is of no use: Ray replaces it
    by the address of the network, on which everybody who reaches this machine could run code.
    """
    with mock.patch("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False, create=True):
        yield


@contextlib.contextmanager
def _in_own_group() -> Iterator[None]:
    """Ray's processes started meanwhile do not get what is sent to this one's group, as `timeout` sends SIGTERM.

    A driver whose raylet is gone is ended by Ray in the middle of things. Ctrl-C does not reach them anyway.
    """
    start = getattr(services, "ConsolePopen", subprocess.Popen)
    with mock.patch.object(services, "ConsolePopen", partial(start, process_group=0), create=True):
        yield


@contextlib.contextmanager
def _without_sigterm_handler() -> Iterator[None]:
    """Ray puts a handler of its own over the search's, which leaves by sys.exit in the middle of things."""
    with mock.patch("ray._private.utils.set_sigterm_handler", _say_nothing, create=True):
        yield


def _connect(address: str) -> None:
    """Join a running cluster; our code goes along, so that every node runs what this process runs."""
    _check_address(address)
    environment = {"py_modules": [str(CODE / package) for package in PACKAGES], "env_vars": QUIET}
    try:
        with _without_sigterm_handler():
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
