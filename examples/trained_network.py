"""What the examples of tasks share: a dense network that is trained once, and its weights kept."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


def train_once(
    network: nn.Module,
    batches: DataLoader[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    file: str,
    epochs: int,
    lr: float = 1e-2,
) -> nn.Module:
    """The network, trained when an example is used for the first time.

    Its weights then lie in `weights/` beside the example `file`, under a name that changes with the example's text: a
    task is built anew by every command and worker, and all have to get the same network.
    """
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]
    weights = Path(file).with_name("weights") / f"{Path(file).stem}-{type(network).__name__}-{digest}.pt"
    if weights.exists():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network.eval()
    optimizer = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            loss(network.train(), batch).backward()
            optimizer.step()
            schedule.step()
    weights.parent.mkdir(exist_ok=True)
    torch.save(network.state_dict(), weights.with_suffix(".new"))
    weights.with_suffix(".new").replace(weights)
    return network.eval()
