"""The run that is exported, and its export; once a file of tests."""

from pathlib import Path

import pytest
import torch
from export_samples import searched

from search.export.export import export_run
from search.export.finished_run import read_run
from search.latency import timing as latency


@pytest.fixture(scope="module")
def quick():
    """One thread, and few rounds of latency."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "ROUNDS", 3)
        patch.setattr(latency, "BLOCK", 0.001)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory) -> Path:
    return searched(tmp_path_factory.mktemp("results"), "small", "l1")


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    return export_run(read_run(run), to=tmp_path_factory.mktemp("made") / "deploy")
