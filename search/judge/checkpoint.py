"""`Checkpoint`: the state of an interrupted fine-tune in one file of plain tensors; it goes on to the same outcome."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from methods.base import Tuning
from search.files.atomic import atomic_write

_STEP = "step"  # in the file's metadata


class Checkpoint:
    """A file that holds a fine-tune between two of its steps; nothing in it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, tuning: Tuning) -> None:
        """Keep the state after `step` steps, in place of what the file held."""
        device = next(network.parameters()).device
        tensors = dict(_name_tensors("network", network.state_dict()))
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= dict(_name_tensors(f"optimizer/{number}", state))
        for name, state in tuning.state_dict().items():
            tensors |= dict(_name_tensors(f"tuning/{name}", state))
        tensors["random/cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(device)
        atomic_write(self.path, safetensors.torch.save(tensors, {_STEP: str(step)}))

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer, tuning: Tuning, *, max_step: int) -> int:
        """Put network, optimizer, tuning and random state back; returns the steps done, 0 if there is nothing here.

        Args:
            max_step: a state after more steps is of no use.
        """
        state = self._read_state()
        if state is None or state[0] > max_step:
            return 0
        step, tensors = state
        device = next(network.parameters()).device
        network.load_state_dict(_select_tensors(tensors, "network"))
        _load_optimizer(optimizer, _select_tensors(tensors, "optimizer"))
        tuning_state: dict[str, dict[str, Tensor]] = {group: {} for group in tuning.state_dict()}
        for name, tensor in _select_tensors(tensors, "tuning").items():
            group, _, rest = name.partition("/")
            tuning_state[group][rest] = tensor.to(device)
        tuning.load_state_dict(tuning_state)
        torch.set_rng_state(tensors["random/cpu"])
        if device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], device)
        return step

    def _read_state(self) -> tuple[int, dict[str, Tensor]] | None:
        """Steps done and tensors; None if there is no file, or only a part of one."""
        try:
            with safe_open(self.path, "pt") as file:
                return int(file.metadata()[_STEP]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def remove(self) -> None:
        """Remove the file: the fine-tune is done, and its weights are kept elsewhere."""
        self.path.unlink(missing_ok=True)


class RungWeights(Checkpoint):
    """The state in which a rung leaves a fine-tune to the next one, which begins anew if it could not be written."""

    def __init__(self, path: Path, *, frozen: bool) -> None:
        """`frozen`: for the last rung, which leaves nothing."""
        super().__init__(path)
        self._frozen = frozen

    def save(self, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, tuning: Tuning) -> None:
        if self._frozen:
            return
        with contextlib.suppress(OSError):
            super().save(step, network, optimizer, tuning)


def _name_tensors(prefix: str, state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, each with memory of its own, as the format wants them."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}/{name}", value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _select_tensors(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Each parameter's state, laid out in memory as the parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition("/")
        like = parameters[int(number)]
        laid_out = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(number), {})[what] = laid_out
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
