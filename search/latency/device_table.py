"""Predicted latency on a device that a kit was measured on.

    latency = s · Σ t(in, out) + s' · Σ t(in, out) off the steps + c · Σ (t₁ − t)(in, out)
              + b · activations written + n · activations that layers narrower than a step read + a

t is interpolated in a grid of widths on multiples of 16; widths between a kernel's steps take the time of the next one.
Where a width is so odd that another kernel runs, t is multiplied by what that cost at a few odd widths. t₁ is the time
after other layers have taken the caches, so that c grows from 0 to 1 with the network. Norms, activations and
additions are no layers: their time grows with the activations that layers write. Inputs that do not fill a block of
channels are laid out anew for the layer that reads them. The factors are at least 0, and fitted to whole networks that
the kit has measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from methods.base import Compressor, Levels
from models.errors import UserError
from search.allocation.budget import Ints
from search.latency.device_file import DeviceFile
from search.latency.grids import Grid, GridTimes, fit_parts, predict_times
from search.latency.layer_times import input_shapes, layer_kind
from search.latency.steps import round_up
from search.latency.widths import Widths, checked_widths

Floats = npt.NDArray[np.float64]
OFF_STEPS = 1  # the feature of layers off the steps
PRIOR = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)  # layers take the time that was measured, and nothing else takes any


class DeviceTimes:
    """Features of predictions from a device's file, for networks whose layers are given by number of kind."""

    def __init__(self, file: DeviceFile, kinds: Sequence[int]) -> None:
        """
        Args:
            kinds: of each layer, its number in the kit.
        """
        self._steps = file.steps
        even = [_grid_of(file, file.layer_times[kind], kind, "even").rising_times() for kind in kinds]
        first = [_grid_of(file, file.first_times[kind], kind, "even").rising_times() for kind in kinds]
        self._even, self._first = GridTimes(even), GridTimes(first)
        # What odd widths take, as a multiple of what the even grid says between its widths.
        odd = []
        for grid, smooth in zip(
            [_grid_of(file, file.layer_times[kind], kind, "odd") for kind in kinds], even, strict=True
        ):
            inputs, outputs = np.meshgrid(grid.inputs, grid.outputs, indexing="ij")
            expected = GridTimes([smooth])(inputs.reshape(-1, 1).astype(float), outputs.reshape(-1, 1).astype(float))
            ratios = np.array(grid.nanoseconds) / expected.reshape(inputs.shape)
            odd.append(Grid(grid.inputs, grid.outputs, tuple(map(tuple, ratios.tolist()))))
        self._odd = GridTimes(odd)
        # Inputs that no allocation narrows, such as images, are not laid out anew.
        layers = [file.kit["layers"][kind] for kind in kinds]
        self._read = np.array([layer["positions"] * (len(layer["even"][0]) > 1) for layer in layers], dtype=np.float64)
        # A width that no allocation changes, such as the number of classes, is not odd: all times of the layer have it.
        may_be_odd = np.array([layer["odd"] != _dense_point(layer) for layer in layers])
        self._inputs_may_be_odd, self._outputs_may_be_odd = (
            may_be_odd & np.array([len(layer["even"][side]) > 1 for layer in layers]) for side in (0, 1)
        )

    def features(self, inputs: Floats, outputs: Floats, shares: Floats, written: Floats) -> Floats:
        """(n, 6): the times of layers on steps and off them, what caches save, activations written and laid out, 1.

        Args:
            inputs: channels into every layer, (n, n_layers), as are `outputs`; `shares` of the positions.
            written: elements of all activations, (n,).
        """
        steps = self._steps
        is_odd = _is_off(inputs, steps.inputs.step, steps.inputs.align) & self._inputs_may_be_odd
        is_odd |= _is_off(outputs, steps.outputs.step, steps.outputs.align) & self._outputs_may_be_odd
        rounded = round_up(inputs, steps.inputs.step), round_up(outputs, steps.outputs.step)
        on_steps = self._even(*rounded) * shares
        off_steps = self._even(inputs, outputs) * self._odd(inputs, outputs) * shares
        uncached = np.maximum(self._first(*rounded) * shares - on_steps, 0.0).sum(1)
        laid_out = (self._read * inputs * shares * (inputs < steps.inputs.step)).sum(1)
        columns = [(on_steps * ~is_odd).sum(1), (off_steps * is_odd).sum(1), uncached, written, laid_out]
        return np.stack([*columns, np.ones(len(written))], axis=1)


def _grid_of(file: DeviceFile, times: Mapping[tuple[int, int], float], kind: int, axes: str) -> Grid:
    inputs, outputs = file.kit["layers"][kind][axes]
    return Grid(tuple(inputs), tuple(outputs), tuple(tuple(times[i, o] for o in outputs) for i in inputs))


def _dense_point(layer: Mapping[str, Any]) -> list[list[int]]:
    """The axes of a grid that has no widths but the dense ones."""
    return [axis[-1:] for axis in layer["even"]]


def _is_off(widths: Floats, step: int, align: int) -> npt.NDArray[np.bool_]:
    """Whether a width is so odd that it runs in a slower kernel."""
    off: npt.NDArray[np.bool_] = (widths > step) & (np.abs(np.remainder(widths + align / 2, align) - align / 2) > 1e-6)
    return off


class DeviceTable:
    """Predicted nanoseconds of one batch on a device, by the levels of all sites of a method."""

    def __init__(self, file: DeviceFile, compressor: Compressor) -> None:
        """
        Raises:
            UserError: the file was measured for networks of other layers than those that the method makes.
        """
        self.file = file
        self._cost = checked_widths(compressor)
        self._called, kinds = _kinds_of_layers(file, compressor, self._cost)
        self._times = DeviceTimes(file, kinds)
        features, measured = _whole_networks(file, compressor, sorted(kinds))
        self._parts = fit_device_parts(features, measured)

    @property
    def dense_nanoseconds(self) -> int:
        return int(self(np.zeros((1, len(self._cost.ladders)), dtype=np.intp))[0])

    def __call__(self, levels: Levels) -> Ints:
        inputs, outputs = (widths[:, self._called] for widths in self._cost.layer_widths(levels))
        shares = self._cost.position_shares(levels)[:, self._called]
        return predict_times(
            self._times.features(inputs, outputs, shares, self._cost.written_elements(levels)), self._parts
        )


def fit_device_parts(features: Floats, measured: Floats) -> Floats:
    """The factors of `DeviceTimes.features`, from whole networks, the dense one first.

    Networks with layers off the steps tell s' alone: their changes of layout would spoil what holds on the steps. Where
    every network has such layers, all factors are told from all of them.
    """
    off_steps = features[:, OFF_STEPS]
    even = off_steps == 0
    if not even.any():
        return fit_parts(features, measured, PRIOR)
    parts = fit_parts(features[even], measured[even], PRIOR, has_dense=bool(even[0]))
    if not even.all():
        rest = features[~even] @ parts - off_steps[~even] * parts[OFF_STEPS]
        shares, goals = off_steps[~even] / measured[~even], 1 - rest / measured[~even]
        parts[OFF_STEPS] = max(float(shares @ goals / (shares @ shares)), 0.0)
    return parts


def _kinds_of_layers(file: DeviceFile, compressor: Compressor, cost: Widths) -> tuple[list[int], list[int]]:
    """The places of the cost model's layers that are called, and their kinds' numbers in the file."""
    network = cost.network
    shapes = input_shapes(network, compressor.example)
    numbers = {layer["kind"]: number for number, layer in enumerate(file.kit["layers"])}
    called, kinds = [], []
    for place, name in enumerate(cost.layers):
        if name not in shapes:
            continue
        kind = layer_kind(network.get_submodule(name), shapes[name])
        if kind not in numbers:
            raise _misfit(file, f"no time of {name}, {kind}, of {compressor.info.name}")
        called.append(place)
        kinds.append(numbers[kind])
    return called, kinds


def _misfit(file: DeviceFile, lacking: str) -> UserError:
    return UserError(
        f"latency table {file.path} does not fit: it was measured for {' and '.join(file.kit['methods'])} on "
        f"{file.kit['network']}, and has {lacking}; write a kit of this method and network by `latency measure`"
    )


def _whole_networks(file: DeviceFile, compressor: Compressor, kinds: Sequence[int]) -> tuple[Floats, Floats]:
    """Features and nanoseconds of the networks that are made of the same layers, the dense one first."""
    features, measured = [], []
    alike = [entry for entry in file.kit["networks"] if sorted(layer[0] for layer in entry["layers"]) == list(kinds)]
    if not alike:
        raise _misfit(file, f"no network of as many layers of each kind as {compressor.info.name} makes")
    for entry in alike:
        features.append(_network_features(file, entry))
        measured.append(file.nanoseconds_of(entry["file"]))
    return np.concatenate(features), np.array(measured)


def _network_features(file: DeviceFile, entry: Mapping[str, object]) -> Floats:
    layers = entry["layers"]
    assert isinstance(layers, list)
    numbers, *columns = zip(*layers, strict=True)
    inputs, outputs, shares = (np.array([column], dtype=np.float64) for column in columns)
    return DeviceTimes(file, numbers).features(inputs, outputs, shares, np.array([entry["written"]], dtype=np.float64))
