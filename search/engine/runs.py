"""What a run's `run.json` says: the configuration of one search, or of a comparison's several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import UserError, unknown_name
from models.paths import user_path
from search.engine.run_file import RUN_FILE, DamagedRunError, described_searches, has_run_file, read_run_file
from search.settings.build import first_fault
from search.settings.config import SearchConfig
from search.settings.shell import option_text

SCHEMA = 1  # of run.json
PARTS = "task_parts"  # in run.json: what the fingerprint is a hash of; runs of earlier versions lack it


def run_folder(run: str | Path) -> Path:
    """The folder of a run, given by its path or by its name below `results`; UserError if there is none."""
    folder = user_path(run)
    folder = folder.absolute() if folder.name in ("", "..") else folder
    if not has_run_file(folder) and len(folder.parts) == 1:
        folder = Path("results") / folder
    if not has_run_file(folder):
        raise _no_run(folder)
    return folder


def _no_run(folder: Path) -> UserError:
    siblings = sorted(path.parent.name for path in folder.parent.glob("*/run.json"))
    if siblings:
        return unknown_name("run", folder.name, siblings)
    return UserError(f"there is no run in {folder}; `search` makes one")


def read_record(folder: Path) -> dict[str, Any]:
    """What `run.json` holds; UserError if it cannot be read, is damaged, or a later version wrote it."""
    path, record = folder / RUN_FILE, read_run_file(folder)
    check_schema(path, record.get("schema", 1))
    described_searches(folder, record)
    return record


def check_schema(path: Path, schema: Any) -> None:
    """UserError if a later version wrote the file, which may mean something else by the same words."""
    if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
        raise UserError(
            f"{path} is of schema {schema!r}, and this version reads 1 to {SCHEMA}; use the version that wrote it, or "
            "start the search anew under another --name"
        )


def read_searches(folder: Path) -> tuple[SearchConfig, ...]:
    """The searches that a run consists of, as they would be run from here; paths of the results follow the folder."""
    path, parts = folder / RUN_FILE, described_searches(folder, read_record(folder))
    try:
        searches = [SearchConfig.model_validate(part) for part in parts]
    except RecursionError:
        raise DamagedRunError(path, "its values are nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a run of this version ({first_fault(error)}); start the search anew") from None
    return tuple(search.model_copy(update={"results": str(folder.parent), "name": folder.name}) for search in searches)


def is_comparison(folder: Path) -> bool:
    """Whether `compare` made the run."""
    return "searches" in read_record(folder)["config"]


def resumed(run: str | Path) -> SearchConfig:
    """The configuration of a search, from its run's folder."""
    folder = run_folder(run)
    if is_comparison(folder):
        raise UserError(f"{folder} holds a comparison; go on with it by `compare {option_text('--resume', folder)}`")
    return read_searches(folder)[0]
