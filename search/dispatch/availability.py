"""Whether the GPUs and the Ray cluster that were asked for are there: found out before Ray is started or joined."""

from __future__ import annotations

import socket

import torch

from models.errors import UserError
from models.wording import plural
from search.dispatch.contract import Resources

CONNECT_TIMEOUT = 10.0  # seconds


def check_resources(resources: Resources) -> None:
    """Refuse what is not there, before data and network are loaded.

    The GPUs of a cluster are known only once it was joined (`ray_session.worker_cpus`).

    Raises:
        UserError: nobody listens at the address, or this machine has fewer GPUs than each worker shall have.
    """
    if resources.ray_address is not None:
        check_address(resources.ray_address)
    elif resources.workers and resources.gpus_per_worker > torch.cuda.device_count():
        raise missing_gpus(resources, torch.cuda.device_count())


def missing_gpus(resources: Resources, there: float) -> UserError:
    """What to say where no machine has the GPUs of one worker."""
    asked = f"{resources.gpus_per_worker:g} GPUs for each worker were asked for"
    return UserError(f"{asked}, but no machine here has more than {plural(there, 'GPU')}; ask for fewer, or for 0")


def check_address(address: str) -> None:
    """UserError if nobody listens there; Ray itself would try for five minutes."""
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
