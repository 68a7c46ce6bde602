"""The command that reproduces a row of a leaderboard, from the `run.json` of the run that it came from."""

from __future__ import annotations

from pathlib import Path

from models.errors import UserError
from search.engine.run_file import has_run_file
from search.engine.run_record import read_config
from search.engine.standings import Standing
from search.settings.command import run_command
from search.settings.config import RunConfig
from search.strategies.registry import strategy_infos


class Commands:
    """Commands that reproduce rows; each run's `run.json` is read once."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._configs: dict[str, RunConfig | None] = {}
        self.notices: list[str] = []
        """What is wrong with the record of a run that is there, a sentence each."""

    def command_of(self, standing: Standing) -> str | None:
        """None if the run is gone or damaged, or if it has been started anew with other settings."""
        if not standing.run or standing.final is None:
            return None
        if standing.run not in self._configs:
            self._configs[standing.run] = self._read_config(self._results / standing.run)
        config = self._configs[standing.run]
        if config is None or standing.method not in config.methods:
            return None
        options = config.options.get(standing.method, {})
        if (options, tuple(config.constraints.option_words())) != (standing.options, standing.constraints):
            return None
        # A strategy that samples began with the points of the others, so it is reproduced only along with them. A
        # strategy in a user's file is taken to sample: showing a leaderboard must not execute the file.
        info = strategy_infos().get(standing.strategy)
        is_lent = config.warm_start and not config.comparison and (info is None or info.samples)
        changes = {
            "methods": (standing.method,),
            "options": {standing.method: options} if options else {},
            "strategies": config.strategies if is_lent else (standing.strategy,),
            "targets": standing.targets or (standing.target,),
            "comparison": False,
        }
        return run_command(config.model_copy(update=changes))

    def _read_config(self, folder: Path) -> RunConfig | None:
        if not has_run_file(folder):
            return None
        try:
            return read_config(folder)
        except UserError as error:
            self.notices.append(f"rows of run {folder.name} have no command: {error}")
            return None
