"""What a user may write for a target, and what it comes to."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from models.errors import UserError
from search.allocation.targets import Target, Targets, flops_text, parse_target, parse_targets


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("0.5", 500_000), ("50%", 500_000), ("1", 1_000_000), ("100%", 1_000_000), (".25", 250_000), ("2x", 500_000),
        ("1x", 1_000_000), ("4X", 250_000), ("300K", 300_000), ("300 k", 300_000), ("0.06M", 60_000), ("1e3K", None),
        ("1.2G", 1_200_000_000), (" 0.5 ", 500_000), ("2.", None),
    ],
)  # fmt: skip
def test_forms(text: str, flops: int | None) -> None:
    if flops is None:
        with pytest.raises(UserError):
            parse_target(text)
    else:
        assert parse_target(text).terms[0].limit_for(1_000_000) == flops


@pytest.mark.parametrize(
    "text",
    ["", "abc", "0", "0%", "-0.5", "1.5", "150%", "0.5x", "0x", "0M", "60MM", "60 MB", "nan", "inf", "0,5", "1/2", "M",
     "0.5;0.3", "٠.٥", "0x1F", "5e-1", "--5", "0.5 0.3", "½", "<script>", "0.5\n0.3"],
)  # fmt: skip
def test_refused_in_one_sentence_with_what_would_do(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_target(text)
    message = str(caught.value)
    assert repr(text) in message
    assert "\n" not in message
    assert "2.12x" in message or "at least 1x" in message


@given(st.integers(1, 10**4), st.integers(1, 10**12))
def test_kept_fractions_never_round_up(thousandths: int, dense: int) -> None:
    exact = Fraction(thousandths, 10**4) * dense
    found = parse_target(str(thousandths / 10**4)).terms[0].limit_for(dense)
    assert abs(found - exact) <= 1 + float(exact) * 1e-12
    assert found <= dense


@given(st.floats(1, 1000))
def test_a_speed_up_is_its_inverse(speed: float) -> None:
    text = f"{speed:.4f}x"
    assert math.isclose(parse_target(text).terms[0].limit_for(10**12), 10**12 / float(text[:-1]), rel_tol=1e-9)


def test_amounts_do_not_depend_on_the_network() -> None:
    assert {parse_target("60M").terms[0].limit_for(dense) for dense in (1, 10**6, 10**12)} == {60_000_000}


def test_lists() -> None:
    assert [target.asked for target in parse_targets("0.7, 0.5 ,0.7,2x")] == ["0.7", "0.5", "2x"]
    for text in ("", " ", ",", " , ,"):
        with pytest.raises(UserError):
            parse_targets(text)
    with pytest.raises(UserError, match="'x'"):
        parse_targets("0.5,x")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1K"), (1500, "1.5K"), (125_485_706, "125M"), (999_600, "1000K"),
     (4_089_184_256, "4.09G"), (40_813_184, "40.8M")],
)  # fmt: skip
def test_counts_in_words(count: int, text: str) -> None:
    assert flops_text(count) == text


@given(st.integers(0, 10**15))
def test_counts_in_words_are_near(count: int) -> None:
    text = flops_text(count)
    size = {"K": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1)
    assert math.isclose(float(text.rstrip("KMG")) * size, count, rel_tol=0.0051)


class Wishes(BaseModel):
    target: Target
    targets: Targets = ()


@pytest.mark.parametrize("text", ["0.5", "50%", "2.12x", "60M", "params 0.4", "flops 0.5 + latency 5ms"])
def test_a_model_holds_targets_and_writes_what_was_asked(text: str) -> None:
    target = parse_target(text)
    wishes = Wishes(target=text, targets=[text, target])
    assert wishes.target == target
    assert wishes.targets == (target,)  # each once
    assert Wishes(target=target, targets=text) == wishes
    assert json.loads(wishes.model_dump_json()) == {"target": text, "targets": [text]}
    assert Wishes.model_validate_json(wishes.model_dump_json()) == wishes
    assert len({str(target), text, wishes.target.asked}) == 1
    assert len({target, wishes.target, parse_target("0.123")}) == 2


@pytest.mark.parametrize("value", [{"target": "fast"}, {"target": 0.5}, {"target": "0.5", "targets": ["1", "params 1"]},
                                   {"target": "0.5", "targets": "params 0.5,0.5"}])  # fmt: skip
def test_a_model_takes_no_other_targets(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wishes(**value)
