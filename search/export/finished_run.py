"""What a run left: its configuration, task and tables, from the engine's results or from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.tasks.metric import ACCURACY, Metric
from search.engine.outcomes import RunOutcomes
from search.engine.run_file import RUN_FILE, DamagedRunError, json_kind
from search.engine.run_folder import find_run_folder
from search.engine.run_record import PARTS, read_config, read_record
from search.results.run_tables import RunTables
from search.settings.command import resume_command
from search.settings.config import RunConfig


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A search or a comparison whose tables are there."""

    config: RunConfig
    fingerprint: str
    host: dict[str, str]
    tables: RunTables
    task_parts: Any = None
    """What the fingerprint is a hash of; None of a run of an earlier version."""

    @classmethod
    def from_outcomes(cls, outcomes: RunOutcomes, tables: RunTables) -> FinishedRun:
        """A run of this process, whose tables need not be read back from its folder."""
        run = outcomes.prepared
        host = dict(outcomes.methods[0].facts)  # the methods of a run share it
        return cls(run.config, run.fingerprint, host, tables, run.task.parts)

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def searched(self) -> int:
        return int((self.tables.candidates["stage"] == "search").sum())


def read_run(run: str | Path) -> FinishedRun:
    """A run from its folder, or from its name below `results`.

    Raises:
        UserError: there is none (nearest names), or it is not whole.
    """
    folder = find_run_folder(run)
    record = read_record(folder)
    if not isinstance(record.get("fingerprint"), str):
        raise DamagedRunError(folder / RUN_FILE, "it names no task")
    if not isinstance(record.get("host", {}), dict):
        raise DamagedRunError(folder / RUN_FILE, f"its host is {json_kind(record['host'])} in place of an object")
    config = read_config(folder)  # where it lies now, which may not be where it was run
    tables = RunTables.read(folder, resume_command(config), _metric_of(record))
    return FinishedRun(config, record["fingerprint"], dict(record.get("host", {})), tables, record.get(PARTS))


def _metric_of(record: Mapping[str, Any]) -> Metric:
    """That ranks the run's candidates; runs of earlier versions know accuracy alone."""
    dense = record.get("dense")
    return Metric.model_validate(dense["metric"]) if isinstance(dense, dict) and "metric" in dense else ACCURACY
