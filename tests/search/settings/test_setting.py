"""What is declared of a setting reaches the command line, Python and messages; help needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import run_search
from models.errors import UserError
from models.settings import naming_flags
from search.settings.commands import COMPARE, PLAN, SEARCH, TRAIN


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [("targets", 0.5, ("0.5",)), ("targets", [np.float32(0.5), "60M"], ("0.5", "60M")), ("round_channels", 8, ("8",)),
     ("mean", "0.1, -2", (0.1, -2.0)), ("mean", np.array([1.0, 2.0]), (1.0, 2.0)), ("seed", np.int64(3), 3),
     ("results", Path("a/b"), "a/b"), ("keep_dense", "a,b", ("a,b",)), ("options", {"alpha": 2, "mode": "x"},
     ("alpha=2", "mode=x")), ("epochs", "2.5", 2.5), ("ledger", None, None)],
)  # fmt: skip
def test_forms_that_are_read(name: str, given: object, value: object) -> None:
    assert SEARCH[name].read_value(given) == value


def test_a_mistake_is_named_as_the_caller_knows_it() -> None:
    for name, flag in (("distill_weight", "--distill"), ("targets", "--target-flops"), ("results", "--results")):
        with pytest.raises(UserError, match=f"^{name} "):
            SEARCH[name].read_value(object())
        with naming_flags(), pytest.raises(UserError, match=f"^{flag} "):
            SEARCH[name].read_value(object())


def test_defaults_that_differ_between_commands() -> None:
    defaults = {name: [command[name].default for command in (SEARCH, TRAIN)] for name in ("epochs", "lr", "schedule")}
    assert defaults == {"epochs": [1.0, 30.0], "lr": [0.02, 0.1], "schedule": ["cosine", "one-cycle"]}
    assert COMPARE["methods"].default == ("l1", "fpgm", "kse")
    assert PLAN["strategy"].default == ("acra-uniform",)
    assert "0 to 1; default: 0.9" in SEARCH["distill_weight"].help


def test_help_is_shown_without_torch() -> None:
    program = "import run_search, sys; sys.exit('torch' in sys.modules)"
    folder = Path(run_search.__file__).parent
    assert subprocess.run([sys.executable, "-c", program], cwd=folder, timeout=120).returncode == 0
