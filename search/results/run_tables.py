"""The three tables of a run, made once from its outcomes; their files are read in another process alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from models.errors import UserError, first_line
from models.tasks.metric import ACCURACY, Metric
from search.latency.predicted import FinalLatency
from search.results.best import Best, best_of_target
from search.results.csv_tables import write_csv
from search.results.dense import Dense
from search.results.metric_columns import name_columns, outside_names, plain_columns
from search.results.tables import (
    ADDED,
    CANDIDATE_TYPES,
    FINAL_TYPES,
    CandidateEntry,
    candidates_frame,
    finals_frame,
    pareto_front,
)

TABLE_TYPES = {"pareto.csv": CANDIDATE_TYPES, "candidates.csv": CANDIDATE_TYPES, "finalists.csv": FINAL_TYPES}


@dataclass(frozen=True, eq=False)
class RunTables:
    """Every candidate, the front of FLOPs and search scores, and the finalists on the test set."""

    candidates: pd.DataFrame
    """`candidates_frame`."""
    front: pd.DataFrame
    """`pareto_front` of them."""
    finals: pd.DataFrame
    """`finals_frame`."""
    metric: Metric = ACCURACY

    @classmethod
    def from_entries(
        cls, entries: Sequence[CandidateEntry], dense: Dense, latencies: Mapping[str, FinalLatency] | None = None
    ) -> RunTables:
        """Args as those of `finals_frame`."""
        # The front is chosen from the table and not from the entries, so that both name a candidate alike.
        candidates = candidates_frame(entries, dense)
        front, finals = pareto_front(candidates, dense.metric), finals_frame(entries, dense, latencies)
        return cls(candidates, front, finals, dense.metric)

    @classmethod
    def read(cls, folder: Path, command: str, metric: Metric = ACCURACY) -> RunTables:
        """The tables in a run's folder.

        Args:
            command: what writes them again.
            metric: of the run's task.

        Raises:
            UserError: one is not there, or is no table of a run.
        """
        front, candidates, finals = (_read_table(folder / name, command, metric) for name in TABLE_TYPES)
        return cls(candidates, front, finals, metric)

    def write(self, folder: Path) -> list[Path]:
        """Write each as CSV into the folder; the paths."""
        paths = [folder / name for name in TABLE_TYPES]
        for path, table in zip(paths, (self.front, self.candidates, self.finals), strict=True):
            write_csv(name_columns(table, self.metric), path)
        return paths

    def best(self, target: str) -> Best | None:
        """The answer to a target, as it was asked for."""
        return best_of_target(self.candidates, self.finals, target, self.metric)

    @property
    def export_pick(self) -> str | None:
        """What an export would best pick: the best on the test set, or the knee of the front if nothing has met it.

        None if every finalist failed, or no candidate has come to its end.
        """
        if self.finals["test_score"].notna().any():
            return "best"
        return "knee" if len(self.front) and not len(self.finals) else None

    @property
    def targets(self) -> list[str]:
        """As they were asked for, in that order."""
        return list(dict.fromkeys(self.candidates["target"].dropna()))


def _read_table(path: Path, command: str, metric: Metric) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path} is not there: the search has not come to its end; go on with {command}")
    types = TABLE_TYPES[path.name]
    try:
        # A tie is one to the last bit, and the default parser keeps that bit since pandas 3.1.
        table = plain_columns(pd.read_csv(path, dtype=_outside_types(types, metric)), types, metric)
        table[[name for name in types if name not in ADDED]]  # raises for another program's table
        # Columns that a table of an earlier version lacks are blank.
        return table.reindex(columns=list(types)).astype(types)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); write it again with {command}") from None


def _outside_types(types: Mapping[str, str], metric: Metric) -> dict[str, str]:
    names = outside_names(metric, types)
    return {names.get(name, name): kind for name, kind in types.items()}
