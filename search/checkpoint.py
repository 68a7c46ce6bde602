"""An interrupted fine-tune: all that it needs to go on as if nothing had happened, in one file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.base import Tuning
from search.files import atomic_write


class Checkpoint:
    """A file that holds a fine-tune between two of its steps; nothing in it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, tuning: Tuning) -> None:
        """Keep the state after `step` steps, in place of what the file held."""
        device = next(network.parameters()).device
        state = {
            "step": step,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "tuning": tuning.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write(self.path, buffer.getvalue())

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer, tuning: Tuning) -> int:
        """Put network, optimizer, tuning and random state back; returns the steps done, 0 if there is nothing here."""
        state = self._read()
        if state is None:
            return 0
        device = next(network.parameters()).device
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        tuning.load_state_dict(
            {name: {k: v.to(device) for k, v in tensors.items()} for name, tensors in state["tuning"].items()}
        )
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], device)
        return int(state["step"])

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return state

    def remove(self) -> None:
        """The fine-tune is done and kept elsewhere."""
        self.path.unlink(missing_ok=True)
