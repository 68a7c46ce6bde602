"""Batches of inputs of any form: cut, repeated, joined, changed, by what lists and tensors do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.execution.inputs import Inputs

IMAGES = torch.arange(3 * 2 * 4 * 5, dtype=torch.float32).view(3, 2, 4, 5)


class Pair(nn.Module):
    def forward(self, images: Tensor, *, vectors: Tensor) -> Tensor:
        return images.flatten(1).sum(1) + vectors.sum(1)


def test_arguments_reach_the_network_as_they_are_given() -> None:
    vectors = torch.ones(3, 2)
    wanted = IMAGES.flatten(1).sum(1) + 2
    assert torch.equal(Inputs((IMAGES,), {"vectors": vectors})(Pair()), wanted)
    assert torch.equal(Inputs.of({"images": IMAGES, "vectors": vectors})(Pair()), wanted)
    assert Inputs.of(IMAGES).only_tensor is IMAGES
    assert Inputs.of([IMAGES]).only_tensor is None


@pytest.mark.parametrize("count", [1, 2])
def test_rows_are_cut_and_what_belongs_to_no_input_stays(count: int) -> None:
    step, mask = torch.tensor(0.5), torch.ones(5, 5)
    cut = Inputs((IMAGES, step), {"mask": mask, "ids": torch.arange(3)}).first(count)
    assert len(cut) == count
    assert torch.equal(cut.args[0], IMAGES[:count])
    assert cut.args[1] is step
    assert cut.kwargs["mask"] is mask
    assert cut.kwargs["ids"].tolist() == list(range(count))


def test_a_batch_begins_again_where_inputs_run_out() -> None:
    inputs = Inputs.of(torch.arange(3).view(3, 1, 1, 1))
    assert inputs.repeat(7).tensors[0].flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert inputs.repeat(2).tensors[0].flatten().tolist() == [0, 1]
    assert inputs.between(1, 3).tensors[0].flatten().tolist() == [1, 2]


def test_items_of_lists_are_cut_together() -> None:
    images = [torch.full((3, 4, 4 + n), float(n)) for n in range(3)]
    boxes = [{"boxes": torch.zeros(n, 4)} for n in range(3)]
    inputs = Inputs((images, boxes), listed=True)
    assert len(inputs) == 3
    images_of, boxes_of = inputs.repeat(4).args
    assert [int(image.mean()) for image in images_of] == [0, 1, 2, 0]
    assert [len(entry["boxes"]) for entry in boxes_of] == [0, 1, 2, 0]
    assert [tuple(inputs.spatial_dims(image)) for image in images] == [(1, 2)] * 3


def test_batches_that_are_alike_are_joined() -> None:
    batches = [Inputs((IMAGES, {"step": torch.tensor(1.0)})), Inputs((IMAGES[:2] + 1, {"step": torch.tensor(1.0)}))]
    joined = Inputs.join(batches)
    assert torch.equal(joined.args[0], torch.cat([IMAGES, IMAGES[:2] + 1]))
    assert joined.args[1]["step"].dim() == 0
    other_size = Inputs((IMAGES[..., :3], {"step": torch.tensor(1.0)}))
    assert Inputs.join([batches[0], other_size]) is batches[0]


def test_lists_are_joined_whatever_the_sizes_of_their_images() -> None:
    lists = [[torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)], [torch.zeros(3, 6, 6)]]
    joined = Inputs.join([Inputs((images,), listed=True) for images in lists])
    assert [image.shape[1] for image in joined.args[0]] == [4, 5, 6]
    assert len(joined.first(2)) == 2


def test_only_floating_point_numbers_are_scaled() -> None:
    scaled = Inputs((IMAGES,), {"ids": torch.arange(3)}).scale(2.0)
    assert torch.equal(scaled.args[0], 2 * IMAGES)
    assert scaled.kwargs["ids"].tolist() == [0, 1, 2]
    cast = scaled.cast(torch.float64)
    assert (cast.args[0].dtype, cast.kwargs["ids"].dtype) == (torch.float64, torch.int64)
