"""A user's own task tried once on its dense network: what would fail every candidate is said before any is paid for."""

from __future__ import annotations

import torch
from torch import nn

from models.errors import UserError
from models.execution.module_copies import copy_module
from models.task import LoaderTask, Task
from models.tasks.loaded import LoadedTask, Split
from models.tasks.outputs import Logits
from models.tasks.overlap import check_overlap
from models.tensor_digest import digest_tensors
from models.user.calls import reporting_errors

CHANGES = "changes the network or its mode; let it work on a copy, or put both back"


def check_given(loaded: LoadedTask, task: Task, *, test: bool) -> None:
    """UserError if its loss, outputs or scores cannot be worked with, or its parts overlap.

    Args:
        test: whether the test set is going to be met.
    """
    if isinstance(task, LoaderTask):
        held_out = {split: loader for split, loader in task.held_out.items() if test or split != "test"}
        check_overlap({"training": task.train, **held_out})
    if loaded.objective.has_outputs:
        _check_outputs(loaded)
    _check_loss(loaded)
    splits: list[Split] = ["search", "test"] if test else ["search"]
    for split in splits:
        _check_score(loaded, split)


def _check_loss(loaded: LoadedTask) -> None:
    """On the first batch as fine-tuning, batch-norm statistics and calibration call it."""
    objective, batch = loaded.objective, next(loaded.tune.training_batches(1, seed=0))
    twin = copy_module(loaded.network).train()
    before = _parameter_state(twin)
    with reporting_errors("the task's loss fails", placed=True):
        objective.loss(twin, batch)
    if _parameter_state(twin) != before:
        raise UserError(f"the task's loss {CHANGES}")
    with reporting_errors("the task's loss fails where layers are in evaluation mode", placed=True):
        objective.calibration_loss(twin, batch)
        with torch.no_grad():
            objective.forward(twin, batch)


def _parameter_state(network: nn.Module) -> tuple[str, list[bool]]:
    """Parameters and modes; batch norm's statistics may move while a loss is computed."""
    return digest_tensors(network.named_parameters()), [module.training for module in network.modules()]


def _check_outputs(loaded: LoadedTask) -> None:
    batch = next(iter(loaded.probes(1)))
    with reporting_errors("the task's outputs fail", placed=True), torch.no_grad():
        outputs = loaded.objective.outputs(loaded.network.eval(), batch)
    if not outputs:
        raise UserError("the task's outputs hold no tensor; return tensors or Logits, or leave `outputs` undefined")
    tensors = [output.scores if isinstance(output, Logits) else output for output in outputs]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise UserError("the task's outputs are not all finite on the first batch; mend the network or `outputs`")


def _check_score(loaded: LoadedTask, split: Split) -> None:
    """In-place changes through `.data`, which tensors do not count, are seen here alone."""
    before = digest_tensors(loaded.network.state_dict().items())
    with reporting_errors(f"the task's score fails on the {split} split", placed=True):
        loaded.score(loaded.network, split)
    if digest_tensors(loaded.network.state_dict().items()) != before:
        raise UserError(f"the task's score {CHANGES}")
