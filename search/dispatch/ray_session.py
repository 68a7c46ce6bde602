"""Ray itself: started on this machine or joined, silenced, and gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import UserError
from models.settings import setting_name
from search.dispatch.availability import check_address, missing_gpus
from search.dispatch.contract import Resources
from search.dispatch.evaluation import describe_error
from search.dispatch.ray_environment import SETTINGS, environment_variable, ray
from search.dispatch.ray_internals import (
    hide_raylet_messages,
    leave_sigterm_alone,
    listen_on_loopback,
    shut_down_ray,
    start_in_own_group,
)
from search.dispatch.scratch import scratch_folder
from search.machine.crash_log import PACKAGES
from search.machine.host import count_cores
from search.machine.signals import ignore_signals, keep_handlers

OBJECT_STORE = 128 * 2**20  # bytes; what does not fit is kept on disk
CODE = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def ray_session(resources: Resources) -> Iterator[None]:
    """Ray for as long as this lasts; around several dispatches it spares them the start. Nests."""
    if ray.is_initialized():
        yield
        return
    stack = contextlib.ExitStack()
    try:
        folder = stack.enter_context(scratch_folder("ray"))
        stack.enter_context(silence_ray())
        stack.callback(shut_down_ray)
        with keep_handlers():
            if resources.ray_address is None:
                _start_ray(resources, folder)
            else:
                _join_cluster(resources.ray_address)
        yield
    finally:
        with ignore_signals():
            stack.close()


def _start_ray(resources: Resources, folder: str) -> None:
    path = os.environ.get("PYTHONPATH")
    inherited = os.pathsep.join([str(CODE), *([path] if path else [])])  # workers import our code from where we do
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment_variable("PYTHONPATH", inherited))
        stack.enter_context(listen_on_loopback())
        stack.enter_context(start_in_own_group())
        stack.enter_context(leave_sigterm_alone())
        try:
            ray.init(
                address="local",
                num_cpus=max(count_cores(), resources.workers),
                include_dashboard=False,
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE,
                _temp_dir=folder,
            )
        except Exception as error:  # Ray has no kind of its own for a start that fails
            raise UserError(
                f"Ray could not be started ({describe_error(error)}); try again on a less busy machine, or with "
                f"{setting_name('workers')} 0"
            ) from error


def _join_cluster(address: str) -> None:
    """Join a running cluster; our code goes along, so that every node runs what this process runs."""
    check_address(address)
    environment = {"py_modules": [str(CODE / package) for package in PACKAGES], "env_vars": SETTINGS}
    try:
        with leave_sigterm_alone():
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False, runtime_env=environment)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({describe_error(error)}); start one with `ray start --head`"
        ) from error


def worker_cpus(resources: Resources) -> int:
    """Processors for each worker; UserError if the cluster lacks the GPUs that are asked for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(node.get("GPU", 0) for node in nodes)
    if resources.gpus_per_worker > most:
        raise missing_gpus(resources, most)
    return cpus_per_worker([node.get("CPU", 0) for node in nodes], resources.workers)


def cpus_per_worker(nodes: Sequence[float], workers: int) -> int:
    """The most whole processors a worker can have such that all fit on the nodes at once; at least 1."""
    for cpus in range(int(max(nodes, default=1)), 1, -1):
        if sum(int(node) // cpus for node in nodes) >= workers:
            return cpus
    return 1


@contextlib.contextmanager
def silence_ray() -> Iterator[None]:
    """Ray's own remarks are about trials and dead workers; the search says what became of its candidates."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with hide_raylet_messages():
            yield
    finally:
        logger.setLevel(level)
