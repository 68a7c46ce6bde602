"""Every input of a search; what `run.json` keeps and a resumed run starts from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from models.task import TaskConfig
from search.allocation.constraints import Constraints
from search.allocation.targets import Targets, parse_target
from search.candidate import Frozen, Recipe
from search.engine.rungs import Rungs
from search.ledger.location import public_location
from search.settings.bounds import MOST_REPEATS


class SearchConfig(Frozen):
    """Everything that decides what a search does."""

    model_config = ConfigDict(allow_inf_nan=False, hide_input_in_errors=True)

    task: TaskConfig
    method: str = "l1"
    options: dict[str, Any] = {}
    strategies: tuple[str, ...] = ("acra-uniform", "acra-sensitivity")
    targets: Targets = Field((parse_target("0.5"),), min_length=1)
    latency_batch: int = Field(1, ge=1)
    """Images in the batch whose latency a target means."""
    constraints: Constraints = Constraints()
    """On single sites."""
    recipe: Recipe = Recipe()
    """Of candidates."""
    final_epochs: float | None = Field(None, ge=0)
    """Of finalists; None takes three times the candidates'."""
    final_seeds: int = Field(3, ge=1, le=MOST_REPEATS)
    finalists: int = Field(1, ge=0, le=MOST_REPEATS)
    """Per target; 0 leaves the test set alone."""
    seed: int = Field(0, ge=0, lt=2**32)
    scan_levels: int = Field(7, ge=1)
    scan_images: int | None = Field(2000, ge=1)
    trials: int = Field(8, ge=1)
    """Candidates per target at most; strategies that sample use them all."""
    rungs: tuple[float, ...] = ()
    """Epochs after which sampled candidates are judged; the last are the recipe's. Empty: at the end alone."""
    reduction_factor: float = Field(3.0, gt=1)
    """One candidate in so many goes on to the next rung."""
    warm_start: bool = True
    """Strategies that sample begin with what the ledger knows, and with the first points of the search's others."""
    device: str | None = None
    workers: int | None = Field(None, ge=0)
    """Processes; None takes one per core (four at most) or per GPU."""
    gpus_per_worker: float | None = None
    ray_address: str | None = None
    time_limit: float | None = None
    """Seconds for one candidate."""
    ledger: str = "results/ledger.db"
    """A file or a URL, never with a password."""
    results: str = "results"
    name: str
    """Of the run; its files lie in `<results>/<name>/`."""

    @field_validator("ledger")
    @classmethod
    def _without_password(cls, ledger: str) -> str:
        return public_location(ledger)

    @field_validator("rungs")
    @classmethod
    def _rising(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if rungs and (len(rungs) < 2 or rungs[0] < 0 or any(one >= other for one, other in pairwise(rungs))):
            raise ValueError("give two or more numbers of epochs, each more than the one before, as in 0,0.25,1")
        return rungs

    @property
    def ladder(self) -> Rungs | None:
        """The rungs on the way to the recipe's end."""
        return Rungs(self.rungs[:-1], self.reduction_factor) if self.rungs else None

    @property
    def rungs_folder(self) -> Path:
        """Where fine-tunes lie that were broken off and may go on."""
        return self.folder / "rungs"

    @property
    def folder(self) -> Path:
        return Path(self.results) / self.name

    @property
    def final_recipe(self) -> Recipe:
        epochs = 3 * self.recipe.epochs if self.final_epochs is None else self.final_epochs
        return self.recipe.model_copy(update={"epochs": epochs})
