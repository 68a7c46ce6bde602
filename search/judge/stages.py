"""Features inside a network, pulled towards the dense network's while it is fine-tuned (FitNets, Romero et al., 2015).

A stage is all that is computed at one size of the feature maps; its last output is what the next one works on.
Compression leaves the stages of a network in place, so no projector has to be trained between the two networks: where
a stage has lost channels, those that are left are compared with their own. Stages are found in the outputs of modules
that both networks have, whatever the architecture; a network without any follows the dense network's outputs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Self, TypeVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from models.execution.forward_hooks import forward_hooks, hookable_modules
from models.tasks.batches import count_inputs
from models.tasks.objective import Batch, Objective
from models.tasks.outputs import Logits, relative_error

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """The last module of a stage."""

    name: str
    """In both networks."""
    channels: Tensor | None = None
    """(n,) int64, on the device: those of the dense output's channels that are left; None if all are."""


@torch.no_grad()
def match_stages(dense: nn.Module, network: nn.Module, objective: Objective, batch: Batch) -> tuple[Stage, ...]:
    """Where a compressed network can be compared with the dense one; both are in evaluation mode.

    Nowhere if all outputs are numbers: the loss is then in a unit of its own, against which no weight of features means
    anything. In super-resolution it was 0.004 beside features of 4, and not a number after eight steps.

    Args:
        batch: real inputs, on the device: channels are recognised by what they compute.
    """

    def trace(traced: nn.Module, names: Collection[str] | None, record: Callable[[Tensor], T]) -> dict[str, T]:
        with ModuleOutputs(traced, names, record) as outputs:
            objective.outputs(traced, batch)
        return outputs.take()

    if not any(isinstance(output, Logits) for output in objective.outputs(dense, batch)):
        return ()
    dense_shapes, shapes = (trace(traced, None, lambda output: output.shape) for traced in (dense, network))
    names = find_stages(dense_shapes, shapes, count_inputs(batch))
    narrowed = [name for name in names if shapes[name] != dense_shapes[name]]
    if not narrowed:
        return tuple(map(Stage, names))
    # Of a second pass, as the features of all modules may take more memory than a step of training.
    dense_outputs, outputs = (trace(traced, narrowed, lambda output: output) for traced in (dense, network))
    return tuple(
        Stage(name, find_channels(outputs[name], dense_outputs[name]) if name in narrowed else None) for name in names
    )


def find_stages(dense_shapes: dict[str, torch.Size], shapes: dict[str, torch.Size], inputs: int) -> tuple[str, ...]:
    """The modules whose outputs are compared: at each size of the maps the last one.

    Args:
        dense_shapes: of modules' outputs, (N, C, ...), in the order in which they are computed.
        shapes: the same of the compressed network.
        inputs: in the batch.
    """
    whole: dict[torch.Size, str] = {}
    narrowed: dict[torch.Size, str] = {}
    for name, dense_shape in dense_shapes.items():
        shape, size = shapes.get(name), dense_shape[2:]
        # One row an input: the regions that a detector proposes lie elsewhere in each network.
        if shape is None or len(dense_shape) < 3 or not shape[0] == dense_shape[0] == inputs:
            continue
        if shape == dense_shape:
            whole[size] = name
        elif shape[2:] == size and shape[1] < dense_shape[1]:
            narrowed[size] = name
    # Where all channels of some output are left that one is taken: it is what a block returns, when its inner layers
    # are narrower.
    return tuple((narrowed | whole).values())


def find_channels(output: Tensor, dense_output: Tensor) -> Tensor:
    """Which channels of the dense output those of another are: the assignment with the largest summed correlation.

    Args:
        output: (N, n, ...).
        dense_output: (N, C, ...), n ≤ C.

    Returns:
        (n,) int64, no two alike, on the device.
    """
    standardised = []
    for features in (output, dense_output):
        rows = features.double().movedim(1, 0).flatten(1)  # (channels, values)
        rows = rows - rows.mean(1, keepdim=True)
        standardised.append(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))  # dead channels correlate with none
    correlations = standardised[0] @ standardised[1].T  # (n, C)
    _, channels = linear_sum_assignment(correlations.nan_to_num().cpu().numpy(), maximize=True)
    return torch.from_numpy(channels).to(output.device)


class ModuleOutputs(Generic[T]):
    """What modules of a network return, recorded by hooks for as long as the block runs."""

    def __init__(self, network: nn.Module, names: Collection[str] | None, record: Callable[[Tensor], T]) -> None:
        """
        Args:
            names: of the modules; None: all but the network itself.
            record: what is kept of an output.
        """
        modules = [(name, module) for name, module in hookable_modules(network) if name]
        self._modules = [(name, module) for name, module in modules if names is None or name in names]
        self._record, self._hooks = record, ExitStack()
        self._calls: dict[str, list[T | None]] = {}

    def __enter__(self) -> Self:
        hooks = [(module, partial(self._note_call, name)) for name, module in self._modules]
        self._hooks.enter_context(forward_hooks(after=hooks))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _note_call(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._calls.setdefault(name, []).append(self._record(output) if isinstance(output, Tensor) else None)

    def take(self) -> dict[str, T]:
        """What was recorded since the last call, in order; no modules that were called twice or return no tensor."""
        calls, self._calls = self._calls, {}
        return {name: one[0] for name, one in calls.items() if len(one) == 1 and one[0] is not None}


class StageLoss:
    """How far the features of a network are from the dense ones, as it is trained; hooks last as the block does."""

    def __init__(self, dense: nn.Module, network: nn.Module, stages: Sequence[Stage]) -> None:
        names = [stage.name for stage in stages]
        self._stages = stages
        self._dense, self._network = (
            ModuleOutputs(module, names, lambda output: output) for module in (dense, network)
        )
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        self._hooks.enter_context(self._dense)
        self._hooks.enter_context(self._network)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def __call__(self) -> Tensor | None:
        """Mean over the stages of s · log(1 + e), of the passes just done; None if no stage was computed once by both.

        e is the squared error over the variance of the dense features, s the share of the channels that is left: what
        is left of a stage cannot return all of the dense features and should not try. Where e is large its logarithm
        leaves the outputs their say: features are means, and at a tenth of the FLOPs e alone was the worse guide.
        """
        dense, network = self._dense.take(), self._network.take()
        losses = []
        for stage in self._stages:
            if stage.name not in dense or stage.name not in network:
                continue
            dense_output, output = dense[stage.name], network[stage.name]
            wanted = dense_output if stage.channels is None else dense_output.index_select(1, stage.channels)
            # In training a detector may draw another size for the same pictures.
            if wanted.shape == output.shape:
                share = wanted.shape[1] / dense_output.shape[1]
                losses.append(share * relative_error(output, wanted).mean().log1p())
        return torch.stack(losses).mean() if losses else None
