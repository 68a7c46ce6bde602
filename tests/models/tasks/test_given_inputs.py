"""How a task's network is called: examples of every form, and training calls that are other than the example."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.errors import UserError
from models.execution.inputs import Inputs
from models.tasks.given_inputs import fit_example, noting_calls, training_inputs


class Seen(nn.Module):
    """Says what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Any, mask: Tensor | None = None) -> Any:
        if isinstance(images, list):
            return [self.conv(image) for image in images]
        outputs = self.conv(images).flatten(1)
        return outputs if mask is None else outputs.masked_fill(mask.expand_as(outputs), -math.inf)


def test_constants_become_noise_and_given_numbers_stay() -> None:
    (noise,) = fit_example(Seen(), torch.zeros(2, 3, 8, 8), "the network").args
    assert noise.std() > 0.5
    images = torch.rand(9, 3, 8, 8)
    (kept,) = fit_example(Seen(), images[:2], "the network").args
    assert torch.equal(kept, images[:2])
    assert len(kept.untyped_storage()) == 4 * kept.numel(), "no more than the example ends up in files"


def test_outputs_that_are_infinite_by_right_are_no_fault() -> None:
    mask = torch.ones(2, 1, dtype=torch.bool)
    inputs = fit_example(Seen(), {"images": torch.rand(2, 3, 8, 8), "mask": mask}, "the network")
    assert len(inputs) == 2
    assert inputs.kwargs["mask"].dtype == torch.bool


@pytest.mark.parametrize("sizes", [(8, 8), (8, 10)])
def test_a_list_of_images_is_a_batch_of_its_items(sizes: tuple[int, int]) -> None:
    inputs = fit_example(Seen(), [torch.rand(3, size, 8) for size in sizes], "the network")
    assert inputs.listed
    assert len(inputs.first().args[0]) == 1


def test_lists_of_feature_maps_are_cut_by_rows() -> None:
    class Pyramid(nn.Module):
        def forward(self, maps: list[Tensor]) -> Tensor:
            low, high = maps
            return nn.functional.interpolate(low, scale_factor=2) + high

    inputs = fit_example(Pyramid(), [torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)], "the network")
    assert not inputs.listed
    assert [tensor.shape[0] for tensor in inputs.first().tensors] == [1, 1]


def test_one_input_is_doubled_where_the_network_takes_two() -> None:
    assert len(fit_example(Seen(), torch.rand(1, 3, 8, 8), "the network")) == 2


def test_what_cannot_be_called_is_said() -> None:
    with pytest.raises(UserError, match="does not take the task's example"):
        fit_example(Seen(), torch.rand(2, 5, 8, 8), "the network")
    with pytest.raises(UserError, match="holds no tensors"):
        fit_example(Seen(), "image.png", "the network")

    class Pairs(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.view(2, -1)[:, :4]

    with pytest.raises(UserError, match="example of 2 inputs, but not the first alone"):
        fit_example(Pairs(), torch.rand(2, 3, 3, 3), "the network")


def test_training_calls_are_kept_where_they_take_other_arguments() -> None:
    example = Inputs.of(torch.rand(2, 3, 8, 8))
    same = Inputs.of(torch.rand(16, 3, 9, 9))
    assert training_inputs(Seen(), example, same) is None

    class Targets(Seen):
        def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
            assert not self.training or targets is not None
            return super().forward(images)

    network = Targets().train()
    images, targets = torch.rand(3, 3, 8, 8), [{"label": torch.tensor(1)}] * 3
    with noting_calls(network) as calls:
        network(images, targets)
    kept = training_inputs(network, Inputs.of(torch.rand(2, 3, 8, 8)), calls[0])
    assert kept is not None
    assert kept.args[0].shape == (2, 3, 8, 8)
    assert not torch.equal(kept.args[0], images[:2]), "nobody's pictures are stored beside an export"
