"""Numbers in sentences."""

import pytest

from models.wording import plural


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 seeds"), (1, "1 seed"), (2, "2 seeds"), (1200, "1,200 seeds"), (1.0, "1 seed"), (0.25, "0.25 seeds")],
)
def test_plural(count: float, words: str) -> None:
    assert plural(count, "seed") == words
