"""Facts about the host that a run takes place on: processor cores, device, versions of packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy")


def count_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_facts(device: torch.device) -> dict[str, str]:
    """Host, cores, device and versions, for `run.json` and the report."""
    return {
        "host": f"{platform.system()} {platform.machine()}, {count_cores()} cores",
        "device": f"{device.type} ({device_name(device)})",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """The processor or GPU by its maker's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as facts:
            return next(fact.split(":", 1)[1].strip() for fact in facts if fact.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
