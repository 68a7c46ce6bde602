"""The task that a configuration names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.data.catalog import data_info
from models.data.images import DataInfo
from models.dense_network import build_dense_network, prepare_network
from models.errors import UserError
from models.execution.example_inputs import example_input
from models.settings import setting_name
from models.task_config import TaskConfig
from models.tasks.given import load_given
from models.tasks.loaded import LoadedTask
from models.tasks.pictures import load_pictures
from models.user.spec_names import network_subject


def load_task(config: TaskConfig, device: torch.device | str) -> LoadedTask:
    """Network and data, ready to judge candidates on `device`."""
    load = load_pictures if config.task is None else load_given
    return load(config, torch.device(device))


def load_network(config: TaskConfig, info: DataInfo | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The dense network of pictures, ready to be compressed (`models.dense_network.prepare_network`)."""
    return prepare_network(config, info or data_info(config), device).network


def load_subject(config: TaskConfig, device: torch.device | str = "cpu", *, runs: bool = True) -> tuple[nn.Module, Any]:
    """A task's dense network and an example of its inputs, without its data where these are not needed.

    Args:
        runs: False where nobody trains or times the network: its weights are then left in the order in which they were
            built, which spares the passes that tell the faster one.
    """
    if config.task is not None:
        task = load_given(config, torch.device(device))
        return task.network, task.example
    info = data_info(config)
    network = load_network(config, info, device) if runs else build_dense_network(config, info).to(device)
    return network, example_input(info.shape, device)


def check_trainable(task: LoadedTask) -> None:
    """UserError if the task's network cannot be fine-tuned: every candidate would fail alike."""
    if task.training_fault is not None:
        subject = network_subject(task.config.network) if task.config.task is None else "the task's network"
        raise UserError(
            f"{subject} cannot be trained: {task.training_fault}; mend that, "
            f"or search without fine-tuning ({setting_name('epochs')} 0, {setting_name('final_epochs')} 0)"
        )
