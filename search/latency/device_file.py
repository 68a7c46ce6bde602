"""`table.json`: what the script of a kit measured on a device, read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from models.errors import UserError
from models.paths import user_path
from models.settings import setting_name
from models.wording import plural
from search.allocation.targets import is_device_name
from search.latency.steps import DeviceSteps, find_steps

SCHEMA = 1
TABLE_SETTING = ("latency_tables", "--latency-table")  # its keyword and its flag
HOW = "write a kit by `latency measure`, and run its measure.py on the device"


Nanoseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FileTimes(BaseModel):
    """The times of one file of the kit that predictions are made from."""

    least: Nanoseconds
    first: Nanoseconds


class TableRecord(BaseModel):
    """What a whole table must have; the kit is checked by its digest."""

    name: str
    device: str
    runtime: str
    provider: str
    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    kit: dict[str, Any]
    times: dict[str, FileTimes]


def kit_digest(kit: Mapping[str, Any]) -> str:
    """Of all that `kit.json` says besides."""
    rest = {key: value for key, value in kit.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class DeviceFile:
    """A table of times, measured on a device by the script of a kit."""

    path: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name that targets know the device by."""
        return str(self.record["name"])

    @property
    def kit(self) -> Mapping[str, Any]:
        """What was measured, as `kit.json` says."""
        kit: Mapping[str, Any] = self.record["kit"]
        return kit

    @property
    def where_text(self) -> str:
        """`AMD EPYC, onnxruntime 1.32.0, CPUExecutionProvider, 1 thread`, and the batch if it is not 1."""
        facts = self.record
        batch = f", batch {facts['batch']}" if facts["batch"] != 1 else ""
        threads = plural(facts["threads"], "thread")
        return f"{facts['device']}, {facts['runtime']}, {facts['provider']}, {threads}{batch}"

    def nanoseconds_of(self, file: str, statistic: str = "least") -> float:
        """The least time of one of the kit's files, or another statistic of it."""
        return float(self.record["times"][file][statistic])

    @cached_property
    def layer_times(self) -> list[dict[tuple[int, int], float]]:
        """For each kind of layer, widths (in, out) -> nanoseconds, its weights in caches."""
        return [self._point_times(layer, "least") for layer in self.kit["layers"]]

    @cached_property
    def first_times(self) -> list[dict[tuple[int, int], float]]:
        """The same after other layers, whose weights were in the caches instead."""
        return [self._point_times(layer, "first") for layer in self.kit["layers"]]

    def _point_times(self, layer: Mapping[str, Any], statistic: str) -> dict[tuple[int, int], float]:
        """What each copy of a layer but the first adds to a file's time, at least 1 ns."""
        times = {}
        for point in layer["points"]:
            one, many = (self.nanoseconds_of(point[file], statistic) for file in ("one", "many"))
            times[point["inputs"], point["outputs"]] = max((many - one) / (point["copies"] - 1), 1.0)
        return times

    @cached_property
    def steps(self) -> DeviceSteps:
        """The steps of the device's kernels, from the kit's scans of neighbouring widths."""
        numbers = {layer["kind"]: number for number, layer in enumerate(self.kit["layers"])}
        scans: dict[str, list[dict[int, float]]] = {"inputs": [], "outputs": []}
        for scan in self.kit["scans"]:
            times, other = self.layer_times[numbers[scan["kind"]]], scan["other"]
            is_inputs = scan["side"] == "inputs"
            scans[scan["side"]].append(
                {width: times[(width, other) if is_inputs else (other, width)] for width in scan["widths"]}
            )
        return DeviceSteps(*(find_steps(scans[side]) for side in ("inputs", "outputs")))


def device_files(places: Iterable[str | Path]) -> dict[str, DeviceFile]:
    """Tables by the names of their devices; UserError if two have the same name."""
    files: dict[str, DeviceFile] = {}
    for place in places:
        file = read_device_file(place)
        other = files.setdefault(file.name, file)
        if other is not file and other.path != file.path:
            raise UserError(
                f"latency tables {other.path} and {file.path} both call their device {file.name}; "
                'change "name" in one of them'
            )
    return files


def unknown_device(device: str, files: Mapping[str, DeviceFile]) -> UserError:
    """What is wrong with a target for a device that has no table."""
    known = f"; there {'is' if len(files) == 1 else 'are'} {', '.join(files)}" if files else ""
    return UserError(f"no table of device {device} is given{known}; give its file with {setting_name(*TABLE_SETTING)}")


def read_device_file(place: str | Path) -> DeviceFile:
    """A device's table.

    Raises:
        UserError: the file cannot be read, is none of ours, of a later version, not measured to its end, or damaged.
    """
    path = user_path(str(place))
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"latency table {place} cannot be read ({error.strerror or error}); {HOW}") from None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"schema", "kit", "times"} <= record.keys():
        raise UserError(f"{place} is no table of a device's times; {HOW}")
    if record["schema"] != SCHEMA:
        raise UserError(f"{place} is of schema {record['schema']!r}, and this version reads {SCHEMA}; {HOW}")
    if not record.get("complete"):
        raise UserError(f"{place} is not measured to its end; run its measure.py again: it goes on where it stopped")
    _check_whole(record, place)
    if not is_device_name(record["name"]):
        raise UserError(f"{place} has the name {record['name']!r}; a device's name is a word of letters, digits, . _ -")
    return DeviceFile(path.absolute(), record)


def _check_whole(record: Mapping[str, Any], place: str | Path) -> None:
    """UserError for a table that lost some of what was measured, or whose kit was changed."""
    try:
        table = TableRecord.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{place} is damaged ({where}: {fault['msg'].lower()}); copy it again, or {HOW}") from None
    if table.kit.get("digest") != kit_digest(table.kit):
        raise UserError(f"{place} is damaged (its kit is not the one that was measured); copy it again, or {HOW}")
    missing = sorted(table.kit["files"].keys() - table.times.keys())
    if missing:
        raise UserError(f"{place} is damaged (it has no time of {missing[0]}); copy it again, or {HOW}")
