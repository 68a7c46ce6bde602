"""What no step may do on a GPU, for every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from step_samples import CPU, RECIPE, batches, small_network
from torch import Tensor, nn

from methods.base import Tuning
from methods.registry import create, method_info, methods
from models.execution.host_reads import HostReads
from models.tasks.classification import CLASSIFICATION
from search.judge.stages import Stage, StageLoss
from search.judge.training_step import Losses, PlainStep


def move_to_meta(network: nn.Module, moved: dict[int, Tensor]) -> None:
    """Parameters and buffers without values, on a device that is not the host's; tied ones stay tied."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    meta = tensor.detach().to("meta")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if is_parameter else meta
                if tensor is not None:
                    tensors[name] = moved[id(tensor)]


@pytest.mark.parametrize("name", [*methods(), "obs+tucker", "tucker-or-kse"])
def test_no_step_leaves_the_device(name: str) -> None:
    """On a device without values, what is made on the host is noted as a move, and what is read there fails."""
    dense = small_network().eval()
    compressor = create(name, dense, torch.randn(2, 3, 8, 8), {})
    if method_info(name).needs_calibration:
        compressor.calibrate(batches(2), CLASSIFICATION)
    levels = np.array([len(site.settings) // 2 for site in compressor.sites])
    allocation = compressor.allocation(levels)
    network = compressor.compress(allocation).train()
    tuning = compressor.tuning(allocation, network, steps=10, lr=0.01)
    groups, moved = tuning.parameter_groups(network), dict[int, Tensor]()
    for part in (network, dense):
        move_to_meta(part, moved)
    for group in groups:
        group["params"] = [moved[id(p)] for p in group["params"]]
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, (Stage("5"),)))
    # The hook of a method that has one may read numbers: its steps are not recorded.
    without_hook = Tuning() if tuning.has_hook else tuning
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    step = PlainStep(network, losses, without_hook, optimizer, CPU)  # the device decides about mixed precision alone
    inputs = torch.empty(8, 3, 8, 8, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    for number in range(2):
        with HostReads() as reads:
            loss = step(inputs, number, 1.0)
        assert not reads.operators
    tensors = [loss, *(p.grad for group in groups for p in group["params"]), *network.state_dict().values()]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
