"""What the Python interface hands back: runs, leaderboards, baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from models.task_config import TaskConfig
from models.tasks.load import load_subject
from models.tasks.metric import Metric
from models.wording import plural
from search.engine.run_record import read_record
from search.export.export import Exported, export_run, prepare_subject
from search.export.finished_run import FinishedRun, read_run
from search.export.pick import pick_candidate
from search.export.settings import EXPORT, NETWORK
from search.leaderboard.board import Board, board_of
from search.results.metric_columns import name_columns
from search.results.tables import FINAL_TYPES
from search.settings.command import resume_command
from search.settings.config import RunConfig
from search.settings.keywords import takes_keywords


@dataclass(frozen=True, eq=False, repr=False)
class RunResult:
    """A search or a comparison, as it ended or as it lies in its folder."""

    run: FinishedRun
    complete: bool
    """False if it was stopped before it was through; `resume_command` goes on with it."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the command line prints with `--json`; empty of a run that was opened from its folder."""

    @classmethod
    def read(cls, folder: str | Path) -> RunResult:
        """A run that any process left; UserError if there is none, or it is not whole."""
        run = read_run(folder)
        return cls(run, read_record(run.folder).get("status") == "finished")

    @property
    def config(self) -> RunConfig:
        """Every input of the run."""
        return self.run.config

    @property
    def folder(self) -> Path:
        """Where its files lie: `report.html`, `leaderboard.html`, tables, weights of finalists."""
        return self.run.folder

    @property
    def metric(self) -> Metric:
        """What candidates are ranked by; columns of the tables are called after its name."""
        return self.run.tables.metric

    @property
    def table(self) -> pd.DataFrame:
        """Every candidate, one line each, failed ones with their reason; no scan measurements."""
        return name_columns(self.run.tables.candidates, self.run.tables.metric)

    @property
    def pareto(self) -> pd.DataFrame:
        """The candidates on the front of FLOPs and search scores, by rising FLOPs."""
        return name_columns(self.run.tables.front, self.run.tables.metric)

    @property
    def finalists(self) -> pd.DataFrame:
        """Results on the test set: mean and standard deviation over seeds, one line per finalist."""
        return name_columns(self.run.tables.finals, self.run.tables.metric)

    @property
    def best(self) -> pd.DataFrame:
        """The answer to each target as the report gives it, indexed by the target as it was asked for.

        `reason` says why it is the first. `accuracy` (or whatever the metric is called) is that of a searched candidate
        on the search split, where no finalist of the target has met the test set; its `test_accuracy` is blank.
        """
        answers = [self.run.tables.best(target) for target in self.run.tables.targets]
        records = [{"score": math.nan, **best.record, "reason": best.reason} for best in answers if best]
        types = {**FINAL_TYPES, "score": "float64", "reason": "str"}
        table = pd.DataFrame(records, columns=list(types)).astype(types).set_index("target")
        return name_columns(table, self.run.tables.metric)

    @property
    def leaderboard(self) -> pd.DataFrame:
        """What the ledger knows of the run's task, ranked; from this run and all others."""
        config = self.config
        return board_of(config.ledger, self.run.fingerprint, Path(config.results)).named_frame

    @property
    def resume_command(self) -> str:
        """What goes on with the run."""
        return resume_command(self.config)

    @takes_keywords(NETWORK)
    def network(self, pick: str = "best", **settings: Any) -> nn.Module:
        """The compressed and fine-tuned network, on the CPU, in evaluation mode; it can be trained on.

        A finalist's weights are those that were judged; a candidate that was only searched is fine-tuned first.

        Raises:
            UserError: no such candidate, or network, weights or data have changed since.
        """
        picked = pick_candidate(self.run, pick, settings["finetune"])
        return prepare_subject(self.run, picked, pick, device=settings["device"]).network

    @takes_keywords({name: setting for name, setting in EXPORT.items() if name != "run"})
    def export(self, pick: str = "best", **settings: Any) -> Exported:
        """`api.export` of this run, without progress."""
        return export_run(self.run, pick=pick, **settings)

    def __repr__(self) -> str:
        state = "" if self.complete else ", stopped before it was through"
        counts = f"{plural(len(self.table), 'candidate')}, {plural(len(self.finalists), 'finalist')}"
        return f"RunResult({str(self.folder)!r}: {counts}{state})"


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """The boards of one task or several."""

    boards: list[Board]
    with_reported: bool = False

    @property
    def table(self) -> pd.DataFrame:
        """All rows; accuracies in 0..1, `delta_points` in percentage points, latencies in ms of one image.

        Tasks of different metrics have columns of their own for them.
        """
        return pd.concat([board.named_frame for board in self.boards], ignore_index=True)

    def text(self, form: str = "md") -> str:
        """As csv, md, tex, json, or the table that the terminal shows; UserError for another form."""
        from search.leaderboard.forms import render_boards  # rich and templates: slow to import, and few write boards

        return render_boards(self.boards, form, self.with_reported)

    def write(self, path: str | Path, form: str = "html", *, force: bool = False) -> Path:
        """Write it to a file, as a page that opens offline or in one of `text`'s forms.

        Raises:
            UserError: there is such a file and `force` is not given, or it cannot be written.
        """
        from search.leaderboard.forms import write_boards

        return write_boards(self.boards, Path(path), form, self.with_reported, force=force)


@dataclass(frozen=True)
class Verified:
    """A row's stored weights, judged again."""

    holds: bool
    """Whether every seed's figure is the recorded one, to the last image."""
    record: Mapping[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """One line per seed: test images that were right then and now."""
        return pd.DataFrame(self.record["seeds"])


@dataclass(frozen=True)
class Trained:
    """A dense baseline."""

    weights: Path
    metric: Metric
    scores: Mapping[str, float]
    """On the `search` split and the `test` set; accuracies in 0..1."""
    task: TaskConfig
    notices: tuple[str, ...] = ()
    """What there is to know of how network and data were read, a sentence each."""

    @property
    def accuracy(self) -> Mapping[str, float]:
        """The scores of a classification."""
        return self.scores

    def network(self) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode."""
        return load_subject(self.task)[0]
