"""`latency measure`: a kit for a network and methods, and its measurement on this machine where that is asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from methods.base import Compressor
from methods.registry import create, method_info
from models.errors import UserError
from models.paths import user_path
from models.task_config import TaskConfig
from models.tasks.load import load_subject, load_task
from models.user.code import is_user_spec, split_spec
from models.user.spec_names import network_name
from search.allocation.targets import is_device_name
from search.export.compressed import file_digest
from search.export.formats import check_onnx
from search.files.atomic import report_unwritable, temporary_name
from search.files.output_file import check_output_folder
from search.judge.evaluate import bind_method
from search.kit import measure
from search.kit.write_kit import write_kit
from search.latency.device_file import DeviceFile, read_device_file
from search.latency.progress import Say


@dataclass(frozen=True)
class Kit:
    """A folder that was written, and the table of this machine if it was measured here."""

    folder: Path
    record: Mapping[str, Any]
    """`kit.json`."""
    table: DeviceFile | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """What the command line prints with `--json`."""
        steps = None if self.table is None else asdict(self.table.steps)
        table = None if self.table is None else str(self.table.path)
        return {"kit": str(self.folder), "files": len(self.record["files"]), "table": table, "steps": steps}

    @property
    def command(self) -> str:
        """What is run on the device, in the folder."""
        return f"python {Path(measure.__file__).name}"


def make_kit(
    task: TaskConfig,
    methods: Mapping[str, Mapping[str, Any]],
    to: str,
    say: Say,
    *,
    run: bool = False,
    provider: str = "CPUExecutionProvider",
    threads: int = 1,
    batch: int = 1,
) -> Kit:
    """Write a kit, or take the one that is there, and measure it here if `run`.

    Args:
        methods: method -> its options.
        to: the folder, whose name is the device's.

    Raises:
        UserError: an input that cannot be worked with; or the folder holds something else.
    """
    check_onnx("a kit", instead="")
    folder = user_path(to)
    if not is_device_name(folder.name):
        raise UserError(f"{to} cannot name a device; end it in a word of letters, digits, '.', '_' and '-'")
    record = _read_kit(folder, _settings_digest(task, methods), going_on=run)
    if record is None:
        record = _write_folder(task, methods, folder, say)
    if not run:
        return Kit(folder, record)
    path = folder / measure.TABLE
    try:
        measure.measure_kit(folder, path, provider=provider, threads=threads, batch=batch)
    except measure.MeasureError as error:
        raise UserError(str(error)) from None
    return Kit(folder, record, read_device_file(path))


def _read_kit(folder: Path, settings: str, *, going_on: bool) -> dict[str, Any] | None:
    """The kit that is there, to be measured further; None if there is none, UserError if the folder is in use.

    Args:
        settings: digest of what the kit is asked to be made of.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        check_output_folder(folder)
        return None
    try:
        record = json.loads((folder / measure.KIT).read_text(encoding="utf-8"))
        same = record["settings"] == settings
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is there already, and is no kit; name another folder") from None
    if not (same and going_on):
        other = "" if same else ", made for another network, other methods or other options"
        raise UserError(f"{folder} is there already{other}; name another folder, or remove it")
    return dict(record)


def _write_folder(task: TaskConfig, methods: Mapping[str, Mapping[str, Any]], folder: Path, say: Say) -> dict[str, Any]:
    """Write the kit under another name, which it loses when it is whole."""
    compressors = _bind_methods(task, methods)
    stage = folder.with_name(temporary_name(folder.name))
    names = {"name": folder.name, "network": network_name(task.network), "settings": _settings_digest(task, methods)}
    try:
        with report_unwritable(folder, "choose another place"):
            record = write_kit(compressors, stage, say=say, **names)
            if folder.exists():
                folder.rmdir()
            stage.replace(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return record


def _settings_digest(task: TaskConfig, methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Of all that a kit is made of: task, methods and options, and the user's own files among them."""
    specs = [spec for spec in (task.network, task.data, task.task) if spec is not None and is_user_spec(spec)]
    files = [file_digest(split_spec(spec, "network")[0]) for spec in specs]
    content = [task.with_absolute_paths().model_dump(mode="json"), list(methods.items()), files]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _bind_methods(task: TaskConfig, methods: Mapping[str, Mapping[str, Any]]) -> list[Compressor]:
    """The methods bound to the network on the CPU; data are loaded for those alone that calibrate on them."""
    if any(method_info(method).needs_calibration for method in methods):
        loaded = load_task(task, "cpu")
        compressors = [bind_method(loaded, method, dict(options)) for method, options in methods.items()]
    else:
        network, example = load_subject(task, "cpu")
        compressors = [create(method, network, example, dict(options)) for method, options in methods.items()]
    for compressor in compressors:
        if not compressor.sites:
            raise UserError(f"{compressor.info.name} can compress nothing of {network_name(task.network)}")
    return compressors
