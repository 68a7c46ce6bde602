"""One step of a fine-tune as an object, in two forms: operator by operator, and recorded as a CUDA graph.

A step of a small network with a teacher is about a thousand short kernels. Issued one by one from Python they keep a
GPU idle; a recorded step is a single launch. All that it reads lies in buffers that stay where they are: batches are
copied into them, and learning rates are tensors. A graph holds no Python, so a step is recorded only if nothing in it
reads a number back from the device and the method's hook does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from methods.base import Tuning
from models.execution.gradients import ForwardGuard, run_backward
from models.execution.host_reads import HostReads
from models.execution.random_state import HostDraws
from models.tasks.objective import Batch, Objective
from models.tasks.outputs import distillation_loss
from search.judge.stages import StageLoss
from search.recipe import Recipe

_WARM_UP = 3  # steps before one is recorded: libraries choose kernels, and momentum begins


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU that has it; float32 elsewhere."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def make_step(network: nn.Module, losses: Losses, tuning: Tuning, device: torch.device) -> PlainStep:
    """The fastest form in which this device can do the steps of a fine-tune.

    Its optimizer is SGD with Nesterov momentum, at the recipe's rates where the method has none of its own.
    """
    recipe, on_gpu = losses.recipe, device.type == "cuda"
    optimizer = torch.optim.SGD(
        tuning.parameter_groups(network),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=on_gpu or None,  # a fused one takes rates that are tensors
    )
    kind = RecordedStep if on_gpu and not tuning.has_hook else PlainStep
    return kind(network, losses, tuning, optimizer, device)


class Losses(NamedTuple):
    """What a step minimises."""

    objective: Objective
    recipe: Recipe
    teacher: nn.Module | None
    """The dense network, in evaluation mode; None where its outputs are not followed."""
    stages: StageLoss

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """(1 − w) · the task's loss + w · how far the outputs lie from the teacher's + v · how far the features do."""
        objective, recipe = self.objective, self.recipe
        if self.teacher is None:
            return objective.loss(network, batch, label_smoothing=recipe.label_smoothing)
        loss, outputs = objective.loss_and_outputs(network, batch, label_smoothing=recipe.label_smoothing)
        with torch.no_grad():
            dense_outputs = objective.outputs(self.teacher, batch)
        weight = recipe.distill_weight
        loss = (1 - weight) * loss + weight * distillation_loss(outputs, dense_outputs, recipe.temperature)
        features = self.stages()
        return loss if features is None else loss + recipe.distill_features * features


class PlainStep:
    """Operator by operator."""

    def __init__(
        self, network: nn.Module, losses: Losses, tuning: Tuning, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self.network, self.losses, self.tuning, self.optimizer = network, losses, tuning, optimizer
        self.device = device
        self._reason = "its method has a hook in every step" if tuning.has_hook else None
        self._guard = ForwardGuard()
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    @property
    def plain_because(self) -> str | None:
        """Why a GPU does not do most of the steps as recorded ones."""
        return self._reason

    def __call__(self, batch: Batch, number: int, share: float) -> Tensor:
        """Do step `number` at this share of the peak learning rates; returns the loss, a scalar on the device."""
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        return self._run(batch, number)

    def _run(self, batch: Batch, number: int) -> Tensor:
        # No hooks in the backward pass, which runs checkpointed parts a second time.
        with self._guard.forward(self.device), mixed_precision(self.device), self.losses.stages:
            loss = self.losses(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        run_backward(loss)
        self.tuning.after_backward(self.network, number)
        self.optimizer.step()
        return loss.detach()


class BufferedStep(PlainStep):
    """From buffers that stay where they are, with learning rates as tensors: what a graph can hold."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._rates = [torch.tensor(float(peak), device=self.device) for peak in self._peaks]
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self._buffers: _Buffers | None = None

    def __call__(self, batch: Batch, number: int, share: float) -> Tensor:
        for group, rate, peak in zip(self.optimizer.param_groups, self._rates, self._peaks, strict=True):
            rate.fill_(peak * share)
            group["lr"] = rate  # an optimizer whose state was loaded has copies of its rates
        if self._buffers is None:
            self._buffers = _Buffers(batch)
        elif not self._buffers.take(batch):
            return self._run_misfit(batch, number)
        return self._run_buffered(self._buffers.batch, number)

    def _run_misfit(self, batch: Batch, number: int) -> Tensor:
        """A batch of another form than the one before; later ones may be like it."""
        self._buffers = _Buffers(batch)
        return self._run(self._buffers.batch, number)

    def _run_buffered(self, batch: Batch, number: int) -> Tensor:
        return self._run(batch, number)


class RecordedStep(BufferedStep):
    """The buffered step as a CUDA graph, recorded after a few steps."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._done = self._misfits = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss: Tensor | None = None
        self._stream = torch.cuda.Stream(self.device)

    @property
    def plain_because(self) -> str | None:
        if self._reason is None and self._misfits > self._done:
            return "its batches differ in form, or in values that are no tensors"
        return self._reason

    def _run_misfit(self, batch: Batch, number: int) -> Tensor:
        self._misfits += 1
        if self._graph is None:
            return super()._run_misfit(batch, number)
        return self._run(batch, number)  # the graph reads the buffers that it was recorded with

    def _run_buffered(self, batch: Batch, number: int) -> Tensor:
        self._done += 1
        if self._reason is not None:
            return self._run(batch, number)
        if self._done <= _WARM_UP:
            return self._warm_up(batch, number)
        if self._graph is None:
            self._record(batch, number)
        if self._graph is None or self._loss is None:
            return self._run(batch, number)
        self._graph.replay()
        return self._loss

    def _warm_up(self, batch: Batch, number: int) -> Tensor:
        """A step on the stream that records; the last one looks for what a graph cannot hold."""
        reads, draws = HostReads(), HostDraws()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            if self._done < _WARM_UP:
                loss = self._run(batch, number)
            else:
                with reads, draws:
                    loss = self._run(batch, number)
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        if reads.operators:
            self._reason = f"it waits for the device in {', '.join(sorted(reads.operators))}"
        elif draws.happened:
            self._reason = "its code draws random numbers on the host"
        return loss

    def _record(self, batch: Batch, number: int) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, a user's loader for instance, may ask for memory meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._loss = self._run(batch, number)
        except RuntimeError as error:
            # Nothing was computed yet, so that the same step can be done plainly.
            self._reason = f"it cannot be recorded: {str(error).splitlines()[0]}"
            self.optimizer.zero_grad(set_to_none=True)
            return
        self._graph = graph


class _Buffers:
    """The tensors of a batch, which stay where they are."""

    def __init__(self, batch: Batch) -> None:
        leaves, self._tree = tree_flatten(batch)
        self._leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.batch = tree_unflatten(self._leaves, self._tree)

    def take(self, batch: Batch) -> bool:
        """Copy a batch into the buffers; False, and nothing is done, if it has another form."""
        leaves, tree = tree_flatten(batch)
        if not self._fits(leaves, tree):
            return False
        for buffer, leaf in zip(self._leaves, leaves, strict=True):
            if isinstance(buffer, Tensor):
                buffer.copy_(leaf, non_blocking=True)
        return True

    def _fits(self, leaves: Sequence[Any], tree: TreeSpec) -> bool:
        return tree == self._tree and all(
            isinstance(leaf, Tensor) and (leaf.shape, leaf.dtype) == (buffer.shape, buffer.dtype)
            if isinstance(buffer, Tensor)
            else leaf is buffer or (isinstance(leaf, str | int | float) and leaf == buffer)
            for buffer, leaf in zip(self._leaves, leaves, strict=True)
        )
