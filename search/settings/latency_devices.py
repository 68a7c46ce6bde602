"""Targets of latency on devices with tables: what a user writes, turned into measures by the devices' names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from models.errors import UserError
from models.paths import user_path
from models.settings import setting_name
from search.allocation.targets import LATENCY, device_of, latency_measure
from search.latency.device_file import DeviceFile, device_files, read_device_file, unknown_device


class LatencyDevices:
    """The devices of a run by name, those that targets bring along among them."""

    def __init__(self, tables: Iterable[str]) -> None:
        """
        Args:
            tables: files given as tables; one of them alone is what `latency` means.

        Raises:
            UserError: a file that is no table, or two that call their devices alike.
        """
        self._files = device_files(tables)
        self._default = list(self._files)

    @property
    def paths(self) -> tuple[str, ...]:
        """The tables' files, absolute: a run may be resumed from another folder."""
        return tuple(str(file.path) for file in self._files.values())

    def measures_of(self, texts: Sequence[str]) -> dict[str, list[str]]:
        """Targets as `--target-latency` takes them, `0.6` or `phone.json:0.6`: measure -> its own texts."""
        by_measure: dict[str, list[str]] = {}
        for text in texts:
            place, colon, bound = text.rpartition(":")
            measure = latency_measure(self._name_of(place)) if colon else self._usual_measure(text)
            by_measure.setdefault(measure, []).append(bound)
        return by_measure

    def name_devices(self, target: str) -> str:
        """A target as `--target` takes it, `latency@phone.json 0.6 + flops 0.5`, its devices by their names."""
        pieces = []
        for piece in target.split("+"):
            name, space, rest = piece.strip().partition(" ")
            if device := device_of(name):
                name = latency_measure(self._name_of(device))
            elif name.lower() == LATENCY:
                name = self._usual_measure(rest)
            pieces.append(f"{name}{space}{rest}")
        return " + ".join(pieces)

    def _usual_measure(self, text: str) -> str:
        """The latency of a target that names no device: on the only one with a table, else on the device of the run."""
        if len(self._default) > 1:
            raise UserError(
                f"{setting_name('target_latency')} {text} does not say on which of {', '.join(self._default)}; write "
                f"{self._default[0]}:{text.strip()}"
            )
        return latency_measure(self._default[0] if self._default else None)

    def _name_of(self, place: str) -> str:
        """The name of a device, which is given by it or by its table's file."""
        if place in self._files:
            return place
        if not user_path(place).exists() and not Path(place).suffix:
            raise unknown_device(place, self._files)
        file = read_device_file(place)
        known: dict[str, DeviceFile] = device_files([*self.paths, file.path])
        self._files = known
        return file.name
