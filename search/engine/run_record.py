"""The record of a run, `run.json`: every input, versions, host, and how far it came; those of earlier versions too."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.settings import MOST_IMAGES, setting_name
from models.tasks.loaded import LoadedTask
from search.engine.run_file import RUN_FILE, DamagedRunError, has_run_file, json_kind, read_run_file
from search.files.atomic import atomic_write, report_unwritable
from search.results.dense import Dense
from search.settings.config import LEARNED, RunConfig
from search.settings.mistakes import first_fault

SCHEMA = 2  # of run.json
PARTS = "task_parts"  # in run.json: what the fingerprint is a hash of; runs of earlier versions lack it


def read_record(folder: Path) -> dict[str, Any]:
    """What `run.json` holds; UserError if it cannot be read, is damaged, or a later version wrote it."""
    path, record = folder / RUN_FILE, read_run_file(folder)
    check_schema(path, record.get("schema", 1))
    config_fields(path, record)
    return record


def recorded_fields(folder: Path) -> dict[str, Any]:
    """What the folder's `run.json` says; empty if there is none, or a damaged one, which the run then writes anew.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        return read_run_file(folder) if has_run_file(folder) else {}
    except DamagedRunError:
        return {}


def check_schema(path: Path, schema: Any) -> None:
    """UserError if a later version wrote the file, which may mean something else by the same words."""
    if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
        raise UserError(
            f"{path} is of schema {schema!r}, and this version reads 1 to {SCHEMA}; use the version that wrote it, or "
            f"start the search anew under another {setting_name('name')}"
        )


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run, as it would be run from here: paths of its results follow the folder."""
    path, record = folder / RUN_FILE, read_record(folder)
    try:
        config = RunConfig.model_validate(config_fields(path, record))
    except RecursionError:
        raise DamagedRunError(path, "its values are nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a run of this version ({first_fault(error)}); start the search anew") from None
    # Where the folder is now, not where it was written: a run may be moved or copied, and goes on there.
    return config.model_copy(update={"results": str(folder.parent), "name": folder.name})


def config_fields(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a record names, as this version writes it, not yet validated.

    Raises:
        DamagedRunError: it names none.
    """
    if "config" not in record:
        raise DamagedRunError(path, "it names no config")
    config = record["config"]
    if not isinstance(config, dict):
        raise DamagedRunError(path, f"its config is {json_kind(config)} in place of an object")
    if record.get("schema", 1) != 1:
        return config
    config = _from_schema_1(path, config)
    # None meant all images. Candidates of such scans have this number in their keys, so none is measured again.
    if config.get("scan_images", 0) is None:
        config["scan_images"] = MOST_IMAGES
    return config


def _from_schema_1(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of schema 1: that of a search, or the list `searches` of a comparison, one for each method.

    Searches of a comparison differ in method, options and strategies alone. Its strategies are those of a method that
    does not learn its allocation, or all of them where `learned` was asked for beside others: the longest list.
    """
    searches = config.get("searches", [config])
    if not isinstance(searches, list) or not searches or not all(isinstance(search, dict) for search in searches):
        raise DamagedRunError(path, "it names no search")
    methods = [str(search.get("method", "l1")) for search in searches]
    options = {method: search.get("options", {}) for method, search in zip(methods, searches, strict=True)}
    strategies = max(
        (list(search["strategies"]) for search in searches if isinstance(search.get("strategies"), list)),
        key=lambda names: (len(names), LEARNED not in names),
        default=None,
    )
    shared = {name: value for name, value in searches[0].items() if name not in ("method", "options", "strategies")}
    chosen = {} if strategies is None else {"strategies": strategies}
    return {**shared, **chosen, "methods": methods, "options": options, "comparison": "searches" in config}


def write_record(
    config: RunConfig, task: LoadedTask, dense: Dense, facts: Mapping[str, str], status: str, **more: Any
) -> None:
    """Write `run.json` into the run's folder.

    Args:
        facts: of the host and versions.
        more: what a run has to say besides.
    """
    folder = config.folder
    record = {
        "schema": SCHEMA,
        "status": status,
        # Of the first writing: a run that is resumed is as old as it was.
        "created": recorded_fields(folder).get("created") or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": config.model_dump(mode="json"),
        "fingerprint": task.fingerprint,
        PARTS: task.parts,
        "dense": dense.record(),
        **more,
        "data": task.describe_data(),
        "notices": list(task.notices),
        "host": facts,
    }
    with report_unwritable(folder, "free space or make it writable"):
        atomic_write(folder / RUN_FILE, json.dumps(record, indent=2) + "\n")
