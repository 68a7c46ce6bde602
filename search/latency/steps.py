"""The steps of a device's kernels: widths between two multiples of a step take the time of the wider one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STEPS = (1, 2, 4, 8, 16, 32)
SAVES_LITTLE = 0.35  # widths within a step save at most this part of what their share of the step's end would
LARGE = 16  # channels: the least step whose half is looked at by itself
SLOW = 0.15  # a width takes at least this share more than a wider one: its kernel is another


@dataclass(frozen=True)
class Steps:
    """Of one side of layers, in channels."""

    step: int = 1
    """Widths between multiples take as long as the next multiple, or longer."""
    align: int = 1
    """Widths that are no multiple of it run in a slower kernel."""


@dataclass(frozen=True)
class DeviceSteps:
    """Of a device's layers."""

    inputs: Steps = Steps()
    outputs: Steps = Steps()

    @property
    def channels(self) -> int:
        """What a number of channels, which one layer puts out and another takes in, is best a multiple of."""
        return max(self.inputs.step, self.inputs.align, self.outputs.step, self.outputs.align)


def find_steps(scans: Sequence[Mapping[int, float]]) -> Steps:
    """The steps that scans of several layers agree on.

    Args:
        scans: of one side of a layer each, width -> time; they end at a multiple of 32, or 16 channels before one.
    """
    align = max((_find_align(scan) for scan in scans), default=1)
    step = min((_find_step(scan, align) for scan in scans), default=1)
    return Steps(max(step, align) if scans else 1, align)


def _find_align(scan: Mapping[int, float]) -> int:
    """The least power of two whose multiples are never slower than a wider layer."""
    widths = sorted(scan)
    wider_time = {width: min((scan[wider] for wider in widths if wider > width), default=np.inf) for width in widths}
    slow = [width for width in widths if scan[width] > (1 + SLOW) * wider_time[width]]
    return next((align for align in STEPS if not any(width % align == 0 for width in slow)), STEPS[-1])


def _find_step(scan: Mapping[int, float], align: int) -> int:
    """The largest step within which no width saves time."""
    widths = [width for width in sorted(scan) if width % align == 0]
    for step in reversed(STEPS):
        ends = {width: -(-width // step) * step for width in widths if width % step}
        if not ends or any(end not in scan for end in ends.values()):
            continue
        # Multiples of the half by themselves: if that is the step, they save all of their share, and others nothing.
        # Of small steps the share is as small as noise.
        halves = {width: end for width, end in ends.items() if step >= LARGE and width % (step // 2) == 0}
        if all(_saves_little(scan, part) for part in (ends, *({width: end} for width, end in halves.items()))):
            return step
    return 1


def _saves_little(scan: Mapping[int, float], ends: Mapping[int, int]) -> bool:
    """Whether widths, together, take nearly the time of the steps' ends."""
    saved = sum(1 - scan[width] / scan[end] for width, end in ends.items())
    return saved <= SAVES_LITTLE * sum(1 - width / end for width, end in ends.items())


def round_up(widths: Floats, step: int) -> Floats:
    """The multiples of a step that widths above it take the time of; widths below it as they are."""
    return np.where(widths > step, np.ceil(widths / step) * step, widths)
