"""Trial of a narrowed network in training: it has to run there, forward and backward, and to give the right outputs.

Training runs code of its own: auxiliary heads, features that are mixed, custom gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from methods.graph.comparison import MORE_THAN_CHANNELS, OTHER_SHAPES, TriedRemoval, are_close, have_same_shapes
from methods.graph.steady_choices import agree_with_choices
from methods.graph.steady_draws import SteadyDraws
from methods.graph.trace import evaluation_mode, separate_operators
from models.execution.forward_hooks import module_path
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.random_state import random_state
from models.execution.tensor_leaves import output_leaves
from models.execution.user_line import describe_failure


def fault_in_training(removal: TriedRemoval, narrowed: nn.Module, inputs: Inputs) -> str | None:
    """Why a narrowed copy is wrong in training, if it is; None as well if the dense network does not train.

    Outputs that stay random, or depend on whether gradients are on, are no evidence: evaluation has passed.
    """
    for images in _training_batches(inputs):
        outputs, failure = _train_once(narrowed, images)
        if failure is None:
            return _why_wrong(removal, narrowed, outputs, images)
        if _train_once(removal.network, images)[1] is None:
            return f"without its channels, {failure} in training"
    return None


def _training_batches(inputs: Inputs) -> Iterator[Inputs]:
    """Two inputs, which batch norms ask for, that differ; and the batch as it is, should the code want its size."""
    batch = inputs if inputs.training is None else inputs.training
    yield batch.first(2) if len(batch) > 1 else batch.repeat(2).map_floats(_flip_second)
    if len(batch) != 2:
        yield batch


def _flip_second(pair: Tensor) -> Tensor:
    return torch.stack([pair[0], pair[1].flip(-1)]) if pair.dim() > 1 and len(pair) == 2 else pair


def _train_once(
    network: nn.Module, images: Inputs, *, seed: int = 0, backward: bool = True
) -> tuple[list[Tensor], str | None]:
    """The outputs of a pass in training, and what does not run there, if anything: custom gradients may hold widths."""
    twin, path = copy_on_write(network), list[str]()
    try:
        with (
            module_path(twin, path), evaluation_mode(twin, images.device), separate_operators(),
            random_state(images.device, seed), SteadyDraws(),
        ):  # fmt: skip
            twin.train()
            for parameter in twin.parameters():
                if parameter.requires_grad:  # gradients need not wait for each other
                    parameter.register_post_accumulate_grad_hook(_drop_gradient)
            with torch.set_grad_enabled(backward):
                outputs = output_leaves(images.clone()(twin))
                sums = [output.sum() for output in outputs if output.requires_grad]
                if sums:
                    torch.stack(sums).sum().backward()
    except Exception as error:
        return [], describe_failure(error, path)
    return [output.detach() for output in outputs], None


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _why_wrong(removal: TriedRemoval, narrowed: nn.Module, outputs: Sequence[Tensor], images: Inputs) -> str | None:
    def run_masked() -> list[Tensor]:
        with SteadyDraws():
            return removal.run_masked(images, 0, training=True)

    try:
        wanted = run_masked()
    except Exception:  # evaluation has passed; a masked network that does not train is no evidence
        return None
    same_shapes = have_same_shapes(outputs, wanted)
    if same_shapes and are_close(outputs, wanted):
        return None
    if agree_with_choices(lambda: _train_once(narrowed, images, backward=False)[0], run_masked):
        return None
    dense, other_seed = (_train_once(removal.network, images, seed=seed, backward=seed == 0)[0] for seed in (0, 1))
    if not dense or not have_same_shapes(dense, other_seed) or not are_close(dense, other_seed):
        return None
    return f"{MORE_THAN_CHANNELS if same_shapes else OTHER_SHAPES} in training"
