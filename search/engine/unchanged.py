"""Whether a run's network, weights and data are still what they were when it began, by the digests in `run.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.settings import setting_name
from models.tasks.loaded import LoadedTask
from models.user.spec_names import data_name, network_name
from search.engine.run_file import RUN_FILE
from search.engine.run_record import PARTS, check_schema, recorded_fields

DIGITS = 12  # of a digest that are shown


def refuse_changed(folder: Path, task: LoadedTask) -> None:
    """UserError if the folder holds a run of another task: what its outcomes say would not hold for this one."""
    record = recorded_fields(folder)
    check_schema(folder / RUN_FILE, record.get("schema", 1))
    fingerprint = record.get("fingerprint")
    if isinstance(fingerprint, str) and fingerprint != task.fingerprint:
        changes = describe_changes(task, fingerprint, record.get(PARTS))
        raise UserError(
            f"{changes} since the run in {folder} was begun; bring back what it was begun with, "
            f"or search anew under another {setting_name('name')}"
        )


def describe_changes(task: LoadedTask, fingerprint: str, recorded_parts: Any) -> str:
    """What is not as it was, with the former and the present digest or value: `weights w.pt have changed (...)`.

    Args:
        fingerprint: of the task as it was.
        recorded_parts: `LoadedTask.parts` of the record; anything else if none were recorded.
    """
    present = json.loads(json.dumps(task.parts))  # tuples become lists, as in the file
    # Without recorded parts nothing is known to differ but the fingerprint, a hash of them all.
    former = recorded_parts if isinstance(recorded_parts, Mapping) else present
    changed = [name for name in present if former.get(name) != present[name]]
    if not changed:
        then, now = _shorten_digest(fingerprint), _shorten_digest(task.fingerprint)
        return f"network, weights or data have changed (task {then} then, {now} now)"
    return ", ".join(_describe_change(name, task, former.get(name), present[name]) for name in changed)


def _describe_change(name: str, task: LoadedTask, then: Any, now: Any) -> str:
    config = task.config
    places = {"network": network_name(config.network), "weights": config.weights, "data": data_name(config.data)}
    if config.task is not None:  # its file builds network, weights and data
        places = {"task": network_name(config.network), "weights": config.weights}
    place = places.get(name)
    label = name.replace("_", " ") if place is None else f"{name} {place}"
    verb = "has" if name in ("network", "task") else "have"
    return f"{label} {verb} changed ({_shorten_digest(then)} then, {_shorten_digest(now)} now)"


def _shorten_digest(value: Any) -> str:
    """The last part of what may be `file-digest:function` or `arrays:digest`, shortened if it is a digest."""
    text = "none" if value is None else str(value)
    words = [word[:DIGITS] if len(word) > 2 * DIGITS and word.isalnum() else word for word in text.split(":")]
    return ":".join(words)
