"""Runs whose pages and pictures are looked at."""

from __future__ import annotations

import pytest
from fake_run import fake_run, hostile_sites

from search.report.page import RunView


@pytest.fixture(scope="module")
def run() -> RunView:
    return fake_run(per_group=6)


@pytest.fixture(scope="module")
def hostile() -> RunView:
    return fake_run(hostile_sites(), per_group=6, hostile=True)
