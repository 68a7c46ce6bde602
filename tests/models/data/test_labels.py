"""Labels as people have them become classes 0 to n - 1, and how is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.data.array_checks import check_arrays
from models.data.duplicates import count_duplicates
from models.errors import UserError
from models.notices import collect_notices

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
CLASSES = np.arange(30) % 3


def read(y_train: Any, y_test: Any = None) -> tuple[list[int], list[int], tuple[Any, ...], list[str]]:
    """Classes of both parts, the labels that they stand for, and the notices."""
    if y_test is None:
        y_train, y_test = y_train[:20], y_train[20:]
    with collect_notices() as notices:
        arrays = check_arrays(
            {"x_train": X[: len(y_train)], "y_train": y_train, "x_test": X[20:], "y_test": y_test}, ""
        )
    return arrays.y_train.tolist(), arrays.y_test.tolist(), arrays.labels, notices


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        (CLASSES + 1, (1, 2, 3), "labels 1, 2, 3 are classes 0 to 2, in this order"),
        (CLASSES * 5 - 4, (-4, 1, 6), "labels -4, 1, 6 are classes 0 to 2, in this order"),
        (CLASSES * 2.0 + 7, (7, 9, 11), "labels 7, 9, 11 are classes 0 to 2, in this order"),
        (np.array(["a dog", "cat", "été"])[CLASSES], ("a dog", "cat", "été"), "names a dog, cat, été are classes"),
        (np.array([b"ant", b"bee", b"\xc3\xa9t\xc3\xa9"])[CLASSES], ("ant", "bee", "été"), "names ant, bee, été are"),
        (np.array(["ant", "bee", "cow"], dtype=object)[CLASSES], ("ant", "bee", "cow"), "names ant, bee, cow are"),
        (np.array(["ant", "bee", "cow"], np.dtypes.StringDType())[CLASSES], ("ant", "bee", "cow"), "names ant, "),
        (np.array([3, 4, 8], dtype=object)[CLASSES], (3, 4, 8), "labels 3, 4, 8 are classes"),
        (np.array([5, 2**40, 2**62], dtype=np.uint64)[CLASSES], (5, 2**40, 2**62), "labels 5, 1099511627776, "),
    ],
)  # fmt: skip
def test_labels_are_mapped_in_ascending_order(labels: Any, names: tuple[Any, ...], said: str) -> None:
    train, test, mapped, notices = read(labels)
    assert train + test == CLASSES.tolist()
    assert mapped == names
    assert len(notices) == 1
    assert said in notices[0]


@pytest.mark.parametrize(
    "labels",
    [CLASSES, CLASSES.astype(np.uint8), CLASSES * 1.0, CLASSES[:, None], CLASSES.astype(np.int16)[:, None]],
    ids=["int64", "uint8", "float", "column", "short column"],
)
def test_class_numbers_stay_as_they_are(labels: Any) -> None:
    assert read(labels) == (CLASSES[:20].tolist(), CLASSES[20:].tolist(), (), [])


def test_booleans_are_classes_0_and_1() -> None:
    train, _, names, notices = read(CLASSES == 1)
    assert train == (CLASSES[:20] == 1).tolist()
    assert (names, notices) == ((), [])


def test_the_mapping_is_that_of_both_parts() -> None:
    train, test, names, notices = read(np.array([1, 5] * 10), np.array([5, 9] * 5))
    assert (train, test, names) == ([0, 1] * 10, [1, 2] * 5, (1, 5, 9))
    assert notices[1:] == [
        "class 9 has no training image: missing from y_train",
        "class 1 has no test image: missing from y_test",
    ]


def test_classes_that_training_lacks_are_listed_in_short() -> None:
    *_, notices = read(np.arange(20) % 2, np.arange(10) + 1)
    assert notices == [
        "classes 2, 3, 4, 5, 6, 7, 8, ... 10 (9 in all) have no training image: missing from y_train",
        "class 0 has no test image: missing from y_test",
    ]


@pytest.mark.parametrize(
    ("y_train", "y_test", "message"),
    [
        (np.eye(3)[CLASSES[:20]], CLASSES[20:], r"y_train .* one-hot, of shape \(20, 3\); give y_train.argmax\(1\)"),
        (CLASSES[:20], np.eye(3, dtype=bool)[CLASSES[20:]], "y_test of .* is one-hot"),
        (CLASSES[:20] + 0.5, CLASSES[20:], "y_train of .* holds 0.5 at position 0"),
        (np.where(CLASSES[:20] == 2, np.nan, CLASSES[:20]), CLASSES[20:], "y_train of .* holds nan at position 2"),
        (CLASSES[:20], np.array(["a", "b"] * 5), "different types, y_train int64 and y_test <U1"),
        (np.array([{}] * 20), CLASSES[20:], r"y_train of .* holds Python objects \(dict\)"),
        (np.array([1, 2, None] * 7)[:20], CLASSES[20:], r"holds Python objects \(NoneType\), the first at position 2;"),
        (np.array(["a", "b", 3] * 7, object)[:20], CLASSES[20:], r"holds Python objects \(int\), the first at posi"),
        (np.ma.masked_array(CLASSES[:20], CLASSES[:20] > 1), CLASSES[20:], "y_train of .* has masked values"),
        (CLASSES[:20].astype("datetime64[s]"), CLASSES[20:], r"y_train of .* has type datetime64\[s\]"),
        (CLASSES[:20].reshape(4, 5), CLASSES[20:], r"x_train of .* holds 20 images but y_train has shape \(4, 5\)"),
        (np.int64(3), CLASSES[20:], r"x_train of .* holds 20 images but y_train has shape \(\)"),
        (np.array(["same"] * 20), CLASSES[20:].astype(str), r"one class only \(same\)"),
    ],
)  # fmt: skip
def test_what_names_no_classes_is_refused(y_train: Any, y_test: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_arrays({"x_train": X[:20], "y_train": y_train, "x_test": X[20:], "y_test": y_test}, "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint16])
def test_duplicates_are_counted_as_brute_force_does(dtype: Any) -> None:
    train = RANDOM.integers(0, 2, (200, 4, 2, 1)).astype(dtype)  # 256 possible images: many coincide
    test = RANDOM.integers(0, 2, (50, 4, 2, 1)).astype(dtype)
    assert count_duplicates(train, test) == sum(any((a == b).all() for b in train) for a in test)
    large = RANDOM.integers(0, 2, (20, 40, 30, 3)).astype(dtype)
    near = large.copy()
    near[:, 1, 1, 1] += 1  # differs where no sample may look
    assert count_duplicates(large, near) == 0
    assert count_duplicates(large, large[[3, 3, 7]]) == 3


def test_test_images_among_the_training_images_are_said() -> None:
    def notices(x_test: Any, y_test: Any) -> list[str]:
        with collect_notices() as said:
            check_arrays({"x_train": X[:20], "y_train": CLASSES[:20], "x_test": x_test, "y_test": y_test}, "")
        return said

    (alike,) = notices(X[:20], CLASSES[:20])
    assert alike.startswith("WARNING: the test images are the training images")
    (some,) = notices(X[15:], CLASSES[15:])
    assert some.startswith("WARNING: 5 of the 15 test images are training images as well")
    assert notices(X[20:], CLASSES[20:]) == []
