"""The default run: real digits, a small network trained on the spot, three targets; half a minute on two cores."""

from __future__ import annotations

from typing import Any

DEMO: dict[str, Any] = {"targets": (0.5, 0.25, 0.1), "epochs": 2, "batch_size": 64, "lr": 0.05, "final_epochs": 6}
"""Keywords of `search.api.search`; all others are at their defaults."""
