"""Settings, sites and allocations: an allocation is one immutable, hashable value, in memory as in JSON."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from pydantic import BaseModel, ValidationError

from methods.allocations import Allocation, Setting, Site

WRITTEN = {"conv": {"T": 1, "G": 4}, "fc": {"ratio": 0.5, "rule": "l1"}, "stem": {}}


class Record(BaseModel):
    allocation: Allocation


def test_an_allocation_survives_json_in_a_model_and_as_text() -> None:
    allocation = Allocation(WRITTEN)
    text = Record(allocation=allocation).model_dump_json()
    assert json.loads(text) == {"allocation": WRITTEN}
    for again in (
        Record.model_validate_json(text).allocation,
        Record.model_validate({"allocation": WRITTEN}).allocation,
        Allocation.from_text(str(allocation)),
        pickle.loads(pickle.dumps(allocation)),
        copy.deepcopy(allocation),
    ):
        assert type(again) is Allocation
        assert all(type(setting) is Setting for setting in again.values())
        assert again == allocation == WRITTEN
        assert str(again) == str(allocation)  # 4 is not written as 4.0
        assert hash(again) == hash(allocation)


def test_an_allocation_that_a_model_is_given_is_kept_as_it_is() -> None:
    allocation = Allocation(WRITTEN)
    assert Record(allocation=allocation).allocation is allocation


@pytest.mark.parametrize("change", [{"conv": {"T": 2, "G": 4}}, {"conv": {"T": 1}}, {"conv": {}}, {"other": {"T": 1}}])
def test_another_setting_or_site_is_another_allocation(change: dict[str, dict[str, int]]) -> None:
    assert len({Allocation(WRITTEN), Allocation(WRITTEN | change), Allocation(dict(reversed(WRITTEN.items())))}) == 2


@pytest.mark.parametrize("text", ["", "[]", "null", '{"conv": 3}', '{"conv": {"T": [1]}}', '{"conv": {"T": null}}'])
def test_what_is_no_allocation_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Allocation.from_text(text)


def test_a_site_finds_the_level_of_each_of_its_settings() -> None:
    settings = tuple(Setting(ratio=k / 10) for k in range(5))
    site = Site("conv", settings, tuple(k / 4 for k in range(5)), ("conv",), 10)
    assert [site.level_of(setting) for setting in settings] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="site 'conv' has no setting"):
        site.level_of(Setting(ratio=0.05))
