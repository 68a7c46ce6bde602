"""Images of every numeric type meet the network as what they show, and how they were read is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.data.array_checks import check_arrays
from models.data.catalog import Data, data_info, load_data
from models.errors import UserError
from models.notices import collect_notices
from models.task_config import TaskConfig

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (60, 8, 6, 3), dtype=np.uint8)
BYTES[0, 0, 0], BYTES[0, 0, 1] = 0, 255  # the whole range, in every channel
FINE = RANDOM.random((60, 8, 6, 3))  # of more shades than 256
FINE[0, 0, 0], FINE[0, 0, 1] = 0, 1
LABELS = np.arange(60) % 3


def read(folder: Path, images: Any, **changes: Any) -> tuple[Data, list[str]]:
    """What `npz:` makes of these images, the last 20 of them for testing, and the notices."""
    np.savez(folder / "data.npz", x_train=images[:40], y_train=LABELS[:40], x_test=images[40:], y_test=LABELS[40:])
    config = TaskConfig.model_validate({"network": "small", "data": f"npz:{folder / 'data.npz'}", **changes})
    with collect_notices() as notices:
        data = load_data(config, CPU)
    return data, notices


def inputs(data: Data) -> Tensor:
    """All images as a network sees them, (60, 3, 8, 6)."""
    return torch.cat([x for part in (data.train, data.test) for x, _ in part.batches(7)])


def own_standard(images: Any) -> Any:
    """Channels of mean 0 and std 1 over the training images, whatever scale they come on; (N, C, H, W)."""
    values = np.asarray(images, np.float64)
    train = values[:40]
    return ((values - train.mean((0, 1, 2))) / train.std((0, 1, 2))).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (BYTES / 255, "float64 from 0 to 1, read on the scale from 0 to 1"),
        ((BYTES / 255).astype(np.float32), "float32 from 0 to 1, read on the scale from 0 to 1"),
        (FINE.astype(np.float16), "float16 from 0 to 1, read on the scale from 0 to 1"),
        (BYTES.astype(np.float32), "float32 from 0 to 255, read on the scale from 0 to 255"),
        (BYTES * 0.9, "float64 from 0 to 229.5, read on the scale from 0 to 255"),
        (BYTES.astype(np.int64), "int64 from 0 to 255, read on the scale from 0 to 255"),
        (BYTES.astype(np.uint16) * 257, "uint16 from 0 to 65,535, read on the scale from 0 to 65,535"),
        ((FINE * 65535).astype(np.int32), "int32 from 0 to 65,535, read on the scale from 0 to 65,535"),
        ((FINE * 4095).astype(np.uint16), "uint16 from 0 to 4,095, read on the scale from 0 to 65,535"),
        ((FINE * 30).astype(np.uint16) + 300, "uint16 from 300 to 330, read on the scale from 0 to 65,535"),
        ((FINE * 4000 - 1000).astype(np.int16), "int16 from -1,000 to 3,000, read on the scale from -32,768 to 32,767"),
        (FINE * 4000 - 1000, "float64 from -1,000 to 3,000, on no scale of pictures: normalised by their own"),
        (FINE * 1e-4, "float64 from 0 to 0.0001, read on the scale from 0 to 1"),
        (FINE * 1.04 - 0.02, "float64 from -0.02 to 1.02, read on the scale from 0 to 1"),
    ],
)
def test_every_range_keeps_what_it_shows(tmp_path: Path, images: Any, said: str) -> None:
    data, notices = read(tmp_path, images)
    # Rounding to 8 bits would be wrong by up to 1e-2 here, and by far more where only a part of the range is used.
    np.testing.assert_allclose(inputs(data).numpy(), own_standard(images), atol=2e-4)
    assert [notice for notice in notices if said in notice] == notices
    assert len(notices) == 1


def test_standardised_images_meet_the_network_as_they_are(tmp_path: Path) -> None:
    for images in (BYTES / 127.5 - 1, own_standard(FINE).transpose(0, 2, 3, 1)):
        data, notices = read(tmp_path, images)
        np.testing.assert_allclose(inputs(data).numpy(), images.transpose(0, 3, 1, 2), atol=1e-6)
        assert "standardised already: taken as they are" in notices[0]
        assert (data.info.mean, data.info.std) == ((0, 0, 0), (1, 1, 1))


def test_mean_and_std_of_the_users_are_on_the_scale_from_0_to_1(tmp_path: Path) -> None:
    given = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    expected = (FINE - np.array(given["mean"])) / np.array(given["std"])
    for images in (FINE, FINE * 255, FINE * 65535):
        np.testing.assert_allclose(
            inputs(read(tmp_path, images, **given)[0]), expected.transpose(0, 3, 1, 2), atol=1e-5
        )


def test_booleans_are_black_and_white(tmp_path: Path) -> None:
    data, notices = read(tmp_path, BYTES > 127, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(inputs(data), torch.from_numpy(BYTES > 127).permute(0, 3, 1, 2).float())
    assert notices == ["images are booleans, read as black and white"]


def test_bytes_say_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, BYTES)[1] == []


@pytest.mark.parametrize(
    ("images", "black"),
    [(BYTES / 127.5 - 1, -1.0), (BYTES / 255, 0.0), (BYTES.astype(np.uint16) * 200, 0.0), (BYTES.astype(float), 0.0)],
    ids=["standardised", "unit", "sixteen", "floats"],
)
def test_what_a_shift_uncovers_is_black(tmp_path: Path, images: Any, black: float) -> None:
    """The values that a batch of shifted images holds are those of the images, and black."""
    data, _ = read(tmp_path, images, crop=2, flip=False, mean=(0, 0, 0), std=(1, 1, 1))
    plain = torch.cat([x for x, _ in data.train.batches(40)])
    shifted = torch.cat([x for x, _ in data.train.batches(40, seed=0, augment=True)])
    values = torch.cat([plain.unique(), torch.tensor([black])])
    assert torch.isin(shifted, values).all()
    border = torch.cat(
        [x for x, _ in data.train.subset(torch.zeros(60, dtype=torch.long)).batches(60, seed=1, augment=True)]
    )
    assert ((border == black).all(3).all(1)).any()  # a whole row of some shifted image lies beyond its border


def test_signed_images_are_shifted_onto_their_own_darkest_value(tmp_path: Path) -> None:
    images = (FINE * 4000 - 1000).astype(np.int16)
    darkest = images.min((0, 1, 2)) / 65535 + 32768 / 65535
    data, _ = read(tmp_path, images, crop=2, flip=False, mean=(0, 0, 0), std=(1, 1, 1))
    shifted = torch.cat([x for x, _ in data.train.batches(40, seed=0, augment=True)])
    np.testing.assert_allclose(shifted.amin((0, 2, 3)).numpy(), darkest, atol=1e-6)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (FINE * 255, FINE, "different scales, x_train holds float64 from 0 to 255 and x_test holds float64 from 0"),
        (BYTES, BYTES / 255, "on different scales, x_train holds uint8 from 0 to 255 and x_test holds float64"),
        (BYTES.astype(np.int64) * 10**6, BYTES, "x_train of here holds whole numbers from 0 to 255,000,000, more"),
        (np.where(BYTES == 7, np.nan, FINE), FINE, r"x_train of here holds \d+ values of NaN or infinity"),
        (FINE, np.where(np.arange(60)[:, None, None, None] == 41, np.inf, FINE), "x_test .* 144 .* image 41, row 0"),
        (FINE * 1e300, FINE, "too large for float32"),
        (FINE.astype(np.complex64), FINE, "x_train of here has type complex64"),
        (np.array([[1, 2], [3]], dtype=object), FINE, "x_train of here holds Python objects"),
        ([[1, 2], [3]], FINE, "x_train of here, of type list, is no array"),
    ],
)  # fmt: skip
def test_what_is_refused(train: Any, test: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_arrays({"x_train": train, "y_train": LABELS, "x_test": test, "y_test": LABELS}, "here")
    assert "\n" not in str(caught.value)


def test_a_dark_test_set_is_on_the_scale_of_the_training_set(tmp_path: Path) -> None:
    images = FINE * 4 - 2
    images[40:] = np.abs(images[40:])  # lacks negative values by chance
    np.testing.assert_allclose(inputs(read(tmp_path, images)[0]).numpy(), images.transpose(0, 3, 1, 2), atol=1e-6)


def test_images_of_one_value_are_counted(tmp_path: Path) -> None:
    images = BYTES.copy()
    images[[3, 5, 50]] = 9
    _, notices = read(tmp_path, images)
    assert notices[:2] == [
        "2 of the 40 images in x_train are of one single value",
        "1 of the 20 images in x_test are of one single value",
    ]


def test_tensors_of_any_type_are_taken() -> None:
    arrays = {"y_train": torch.from_numpy(LABELS), "y_test": LABELS.tolist()}
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        tensor = torch.from_numpy(FINE).to(dtype).requires_grad_()
        checked = check_arrays({**arrays, "x_train": tensor, "x_test": tensor}, "here")
        assert torch.equal(checked.x_train.double(), tensor.double()) or dtype == torch.float64
        torch.testing.assert_close(checked.x_train.double(), tensor.detach().double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "images", [(FINE * 65535).astype(np.uint16), FINE.astype(np.float16)], ids=["uint16", "float16"]
)
def test_sixteen_bits_and_half_floats_take_two_bytes_each(images: Any) -> None:
    checked = check_arrays({"x_train": images, "y_train": LABELS, "x_test": images, "y_test": LABELS}, "here")
    assert (checked.x_train.element_size(), checked.x_test.element_size()) == (2, 2)


def test_info_is_the_same_without_loading(tmp_path: Path) -> None:
    data, _ = read(tmp_path, FINE)
    assert data_info(TaskConfig(network="small", data=f"npz:{tmp_path / 'data.npz'}")) == data.info
