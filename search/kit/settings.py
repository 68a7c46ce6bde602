"""The settings of a kit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.settings import MOST_BATCH, Option, Settings
from search.settings.config import RunConfig
from search.settings.setting import declare_settings

MOST_THREADS = 1024


class KitSettings(Settings):
    """Where a kit is written, and how it is measured on this machine."""

    to: Annotated[str, Option(metavar="PATH")]
    """Folder to write: its last name is what the device is called."""
    run: bool = False
    """Measure the kit on this machine at once."""
    provider: str = "CPUExecutionProvider"
    """Execution provider of onnxruntime, for a run on this machine."""
    threads: int = Field(1, ge=1, le=MOST_THREADS)
    """Threads, for a run on this machine."""
    batch: int = Field(1, ge=1, le=MOST_BATCH)
    """Inputs at once, for a run on this machine."""


MEASURE = {
    **declare_settings(RunConfig, "task"),
    **declare_settings(RunConfig, "methods", "options", "results", keywords={"methods": "method"}),
    **declare_settings(KitSettings),
}
"""What `latency measure` takes."""
