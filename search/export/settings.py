"""The settings of an export."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from models.settings import MOST_EPOCHS, NumberText, Option, Settings
from search.settings.config import RunConfig
from search.settings.setting import declare_settings

Format = Literal["config", "safetensors", "pt2", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)


def _in_writing_order(formats: tuple[Format, ...]) -> tuple[Format, ...]:
    return tuple(form for form in FORMATS if form in formats)


class ExportSettings(Settings):
    """Which candidate of a run is exported, how far it is trained before, and as which files."""

    run: Annotated[str, Option(argument=True)]
    """A run's folder, or its name below `results`; of a search or a comparison."""
    pick: NumberText = "best"
    """Candidate to export: best, knee, smallest, a target (its best), or the beginning of a name."""
    to: Annotated[str | None, Option(metavar="PATH", default="export in the run's folder")] = None
    """Folder to write."""
    formats: Annotated[tuple[Format, ...], AfterValidator(_in_writing_order), Option("--format")] = FORMATS
    """Files to write, comma-separated."""
    finetune: float | None = Field(None, ge=0, le=MOST_EPOCHS)
    """Epochs of a distilled fine-tune before the export, from the compressed dense weights on; an interrupted one goes
    on from its last epoch."""
    force: bool = False
    """Replace the export in a folder that is not empty; other files are never replaced."""


class LoadSettings(Settings):
    """Which export is loaded."""

    folder: str
    """Where `config.json` and `model.safetensors` of the export lie."""


EXPORT = {**declare_settings(ExportSettings), **declare_settings(RunConfig, "device")}
LOAD = declare_settings(LoadSettings)
NETWORK = {name: EXPORT[name] for name in ("pick", "finetune", "device")}
"""What of it decides about the network alone."""
