"""The command that leads to a row of a leaderboard, from the record of the run that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.errors import UserError
from search.allocation.targets import parse_target
from search.engine.run_file import has_run_file
from search.engine.run_record import read_config
from search.engine.standings import Standing
from search.settings.command import run_command
from search.settings.config import RunConfig
from search.strategies.contract import strategies


class Commands:
    """The command that leads to a row, from the `run.json` of its run; blank where that is gone or damaged."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._searches: dict[str, Sequence[RunConfig]] = {}
        self.notices: list[str] = []
        """What is wrong with the record of a run that is there, a sentence each."""

    def of(self, standing: Standing) -> str | None:
        if not standing.run or standing.final is None:
            return None
        if standing.run not in self._searches:
            self._searches[standing.run] = self._read(self._results / standing.run)
        for search in self._searches[standing.run]:
            asked = (search.method, search.method_options, tuple(search.constraints.words()))
            if asked == (standing.method, standing.options, standing.constraints):
                # A strategy that samples began with the points of the others. A user's file is not executed here.
                info = strategies().get(standing.strategy)
                lent = search.warm_start and (info is None or info.samples)
                own = search.strategies if lent else (standing.strategy,)
                targets = tuple(map(parse_target, standing.targets or (standing.target,)))
                changes = {"strategies": own, "targets": targets, "comparison": False}
                return run_command(search.model_copy(update=changes))
        return None

    def _read(self, folder: Path) -> Sequence[RunConfig]:
        if not has_run_file(folder):
            return ()
        try:
            return read_config(folder).parts
        except UserError as error:
            self.notices.append(f"rows of run {folder.name} have no command: {error}")
            return ()
