"""Every input of a run: one method searched (`search`), or several compared (`compare`); kept in `run.json`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from models.settings import MOST_BATCH, MOST_EPOCHS, MOST_IMAGES, MOST_REPEATS, MOST_SEED, Option, Settings
from models.task_config import TaskConfig
from search.allocation.constraints import Constraints
from search.allocation.targets import Targets, parse_target
from search.ledger.location import LEDGER_FILE, public_location, usual_ledger
from search.recipe import Recipe, StoredRecipe
from search.settings.users_code import UsersCode

RESULTS = "results"  # folder of runs, ledger and baselines, if no other is named
LEARNED = "learned"  # the strategy of a method that learns its allocation


@dataclass(frozen=True)
class Rungs:
    """Where candidates are judged on the way."""

    epochs: tuple[float, ...]
    """Of the rungs before the last, rising, all less than the recipe's."""
    reduction: float = 3.0
    """One of so many goes on."""

    def expected_counts(self, count: int) -> list[float]:
        """How many of `count` candidates reach each rung, the last included: the first one always goes on."""
        reached = [float(count)]
        for _ in self.epochs:
            reached.append(1 + (reached[-1] - 1) / self.reduction)
        return reached


class RunConfig(UsersCode, Settings):
    """Everything that decides what a run does: methods × strategies × targets, and the seeds of finalists."""

    model_config = ConfigDict(hide_input_in_errors=True)

    task: TaskConfig
    methods: tuple[str, ...] = Field(("l1",), min_length=1)
    """Names from `methods`; l1+kse makes two into one, tucker-or-kse lets each layer have either. A search has one."""
    options: Annotated[dict[str, dict[str, Any]], Option("--option", repeatable=True)] = {}
    """Option of a method, METHOD.NAME=VALUE; NAME=VALUE will do where there is one method; repeatable."""
    strategies: tuple[str, ...] = ("acra-uniform", "acra-sensitivity")
    """Names from `strategies`. In a comparison a method that learns its allocation does that instead, unless `learned`
    is among them."""
    comparison: bool = False
    """Each method and strategy answers for itself, with finalists of its own. Otherwise the strategies work together:
    the best of all of them are the finalists, and those that sample may begin with the points of the others."""
    targets: Targets = Field((parse_target("0.5"),), min_length=1)
    latency_batch: int = Field(1, ge=1, le=MOST_BATCH)
    """Images in the batch whose latency a target means."""
    latency_tables: Annotated[tuple[str, ...], Option("--latency-table", repeatable=True, metavar="PATH")] = ()
    """Table of another device's times, as measure.py of a kit writes it: targets of latency mean that device;
    repeatable."""
    constraints: Constraints = Constraints()
    recipe: StoredRecipe = Recipe()
    final_epochs: Annotated[float | None, Field(ge=0, le=MOST_EPOCHS), Option(default="three times epochs")] = None
    """Epochs of a finalist's fine-tune."""
    final_seeds: int = Field(3, ge=1, le=MOST_REPEATS)
    """How often each finalist is fine-tuned and tested; once says nothing of the noise."""
    finalists: int = Field(1, ge=0, le=MOST_REPEATS)
    """Candidates to test per target, in a comparison per target, method and strategy; 0 leaves the test set alone."""
    seed: int = Field(0, ge=0, le=MOST_SEED)
    """Seed of all that is random in a run."""
    scan_levels: int = Field(7, ge=1, le=1000)
    """Strengths measured per site in a sensitivity scan."""
    scan_images: int = Field(2000, ge=1, le=MOST_IMAGES)
    """Search images per measurement of a scan."""
    trials: int = Field(8, ge=1, le=10**6)
    """Candidates per target at most; strategies that sample use them all."""
    rungs: Annotated[tuple[Annotated[float, Field(ge=0, le=MOST_EPOCHS)], ...], Option(metavar="EPOCHS")] = ()
    """Epochs after which sampled candidates are judged and the better ones go on, as in 0,0.25,1; the last in place of
    epochs."""
    reduction_factor: float = Field(3.0, gt=1, le=MOST_REPEATS)
    """One candidate in so many goes on to the next rung."""
    warm_start: bool = True
    """Strategies that sample begin with what the ledger knows and with the first points of the others."""
    device: Annotated[str | None, Option(default="a GPU if there is one")] = None
    """Where networks run: cpu, cuda or cuda:N."""
    workers: Annotated[
        int | None, Field(ge=0, le=1024), Option(default="one per core, four at most, or one per GPU")
    ] = None
    """Processes that judge candidates; 0 judges them in this one, without Ray."""
    gpus_per_worker: Annotated[float | None, Field(ge=0, le=64), Option(default="what there is, shared")] = None
    """GPUs of each worker; with fractions they share one."""
    ray_address: str | None = None
    """Address of a running Ray cluster: auto or host:port."""
    time_limit: float | None = Field(None, gt=0, le=366 * 86400)
    """Seconds for one candidate; with 0 workers for its fine-tune alone."""
    ledger: Annotated[str, Option(default=f"<results>/{LEDGER_FILE}")] = str(usual_ledger(RESULTS))
    """SQLite file or database URL, kept without its password."""
    results: Annotated[str, Option(metavar="PATH")] = RESULTS
    """Where runs, the ledger and baselines lie."""
    name: Annotated[str, Option(default="network, data, method and time", printed=False)]
    """Name of the run's folder below `results`."""

    @field_validator("ledger")
    @classmethod
    def _without_password(cls, ledger: str) -> str:
        return public_location(ledger)

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if rungs and (len(rungs) < 2 or any(earlier >= later for earlier, later in pairwise(rungs))):
            raise ValueError("give two or more numbers of epochs, each more than the one before, as in 0,0.25,1")
        return rungs

    @field_validator("options")
    @classmethod
    def _without_empty_options(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {method: values for method, values in options.items() if values}

    @model_validator(mode="after")
    def _options_fit_methods(self) -> RunConfig:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("name every method once")
        if len(self.methods) > 1 and not self.comparison:
            raise ValueError("a search has one method; compare several")
        if not set(self.options) <= set(self.methods):
            raise ValueError("options are given for a method that is not used")
        return self

    @property
    def method(self) -> str:
        """The method, where there is one."""
        (method,) = self.methods
        return method

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of the method, where there is one."""
        return self.options.get(self.method, {})

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
