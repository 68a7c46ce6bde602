"""What Ray's own errors, raised as Tune raises them, are taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.dispatch.attempts import NO_MEMORY
from search.dispatch.ray_environment import ray
from search.dispatch.worker_deaths import chain_words, death_cause, error_text, is_machine_death, is_out_of_memory
from search.machine.crash_log import NO_TRACE

CRASH = """Fatal Python error: Bus error

Current thread 0x1 (most recent call first):
  File "/home/me/net.py", line 3 in f
"""


def test_a_full_memory_is_seen_through_tunes_own_error() -> None:
    """Which comes while the one of Ray's is handled, and repeats its words or not."""
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012
        try:
            raise ray.exceptions.OutOfMemoryError("Task was killed")
        except ray.exceptions.RayError:
            raise RuntimeError("Caught unexpected exception")  # noqa: B904, as Tune raises it
    assert is_out_of_memory(chain_words(caught.value))
    assert not is_out_of_memory(chain_words(ValueError("memory")))


def test_a_crash_that_the_file_tells_of_is_the_cause_wherever_it_was(tmp_path: Path) -> None:
    file = tmp_path / "attempt.txt"
    assert death_cause(file, "") == death_cause(None, "") == NO_TRACE
    assert is_machine_death(file, "its node has died")
    file.write_text(CRASH)
    assert death_cause(file, "its node has died") == "SIGBUS in net.py:3 (f)"
    assert not is_machine_death(file, "its node has died")
    assert death_cause(file, "running low on memory") == NO_MEMORY


def test_a_trial_without_an_error_file_has_no_words() -> None:
    assert error_text(object()) == ""
