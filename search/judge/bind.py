"""Methods bound to a task."""

from __future__ import annotations

from typing import Any

from methods.base import Compressor
from methods.registry import create, method_info
from models.tasks.loaded import LoadedTask


def bind_method(task: LoadedTask, method: str, options: dict[str, Any]) -> Compressor:
    """A method bound to a task's dense network, calibrated on fine-tuning inputs if it wants that."""
    compressor = create(method, task.network, task.example, options)
    if method_info(method).needs_calibration:
        compressor.calibrate(task.calibration_batches(), task.objective)
    return compressor
