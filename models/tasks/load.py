"""The task that a configuration names."""

from __future__ import annotations

import torch
from torch import nn

from models.data.catalog import data_info
from models.data.images import DataInfo
from models.dense_network import prepare_network
from models.errors import UserError
from models.settings import setting_name
from models.task_config import TaskConfig
from models.tasks.loaded import LoadedTask
from models.tasks.pictures import load_pictures
from models.user.spec_names import network_subject


def load_task(config: TaskConfig, device: torch.device | str) -> LoadedTask:
    """Network and data, ready to judge candidates on `device`."""
    return load_pictures(config, torch.device(device))


def load_network(config: TaskConfig, info: DataInfo | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The dense network of `models.dense_network.prepare_network`, ready to be compressed."""
    return prepare_network(config, info or data_info(config), device).network


def check_trainable(task: LoadedTask) -> None:
    """UserError if the task's network cannot be fine-tuned: every candidate would fail alike."""
    if task.training_fault is not None:
        raise UserError(
            f"{network_subject(task.config.network)} cannot be trained: {task.training_fault}; mend that, "
            f"or search without fine-tuning ({setting_name('epochs')} 0, {setting_name('final_epochs')} 0)"
        )
