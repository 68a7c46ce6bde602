"""The folder of a run: found by name, fit to be written to, and one run's at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from models.errors import UserError, unknown_name
from models.paths import check_utf8_names, user_path
from models.settings import setting_name
from search.engine.run_file import RUN_FILE, DamagedRunError, has_run_file
from search.engine.run_record import config_fields, read_config, recorded_fields
from search.files.atomic import hold_lock, report_unwritable
from search.files.output_file import check_output_folder
from search.settings.config import RESULTS, RunConfig
from search.settings.shell import path_argument, shell_word


def find_run_folder(run: str | Path, results: str | Path = RESULTS) -> Path:
    """The folder of a run, given by its path or by its name below `results`; UserError if there is none."""
    folder = user_path(run)
    # `.` and `..` have no name that a run could go by.
    folder = folder.absolute() if folder.name in ("", "..") else folder
    if not has_run_file(folder) and len(folder.parts) == 1:
        folder = Path(results) / folder
    if has_run_file(folder):
        return folder
    siblings = sorted(path.parent.name for path in folder.parent.glob("*/run.json"))
    if siblings:
        raise unknown_name("run", folder.name, siblings)
    raise UserError(f"there is no run in {folder}; `search` makes one")


def resumed_config(run: str | Path, results: str | Path = RESULTS) -> RunConfig:
    """The configuration of a run to go on with, from its folder or its name below `results`."""
    return read_config(find_run_folder(run, results))


def check_run_folder(config: RunConfig) -> None:
    """Refuse, before anything is loaded, a run whose files could not be written or read back; nothing is made.

    Raises:
        UserError: they could not.
    """
    folder = config.folder
    check_utf8_names(folder, config.model_dump(mode="json"))
    if has_run_file(folder):
        advice = "a run goes on in its own folder: make it writable, or copy it to another place and resume the copy"
    else:
        advice = f"choose another folder with {setting_name('results')}"
    # Missing folders are not made to try: another search that starts at the same moment may be about to use them.
    check_output_folder(next(place for place in (folder, *folder.absolute().parents) if place.exists()), advice)


@contextmanager
def claim_run_folder(folder: Path, config: RunConfig) -> Iterator[None]:
    """The folder is this run's while this lasts; UserError if it is another's, running or done with other settings."""
    with report_unwritable(folder, f"choose another folder with {setting_name('results')}"):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Held by the open file, so that it goes with the process however it ends; no stale lock has to be removed.
        try:
            stack.enter_context(hold_lock(folder))
        except OSError as error:
            raise UserError(
                f"a search is running in {folder}; wait for it, or give this one another {setting_name('name')}"
            ) from error
        refuse_other_run(folder, config)
        yield


def refuse_other_run(folder: Path, config: RunConfig) -> None:
    """UserError if the folder holds a run of other settings, which this one would overwrite."""
    try:
        fields = config_fields(folder / RUN_FILE, recorded_fields(folder))
    except DamagedRunError:  # or there is none yet
        return
    try:
        same = _comparable_settings(RunConfig.model_validate(fields)) == _comparable_settings(config)
    except (ValueError, RecursionError):  # of another version
        same = False
    if not same:
        raise UserError(
            f"{folder} holds a run with other settings; give this one another {setting_name('name')}, "
            f"or go on with that one by {setting_name('resume')} {shell_word(path_argument(folder))}"
        )


def _comparable_settings(config: RunConfig) -> dict[str, Any]:
    """Everything but where results lie: a run may be copied, and resumed there."""
    return config.model_dump(mode="json", exclude={"results", "name"})
