"""Which widths of which layers a kit measures.

Kernels have steps, so most widths are multiples of 16, among which times are interpolated. Others are there to find the
steps, and to tell what a width off them costs: neighbouring widths of the costliest layers, and a few odd widths of
every layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

from methods.base import Compressor
from methods.graph.narrow import channels_of, is_depthwise
from search.allocation.allocate import Ladders
from search.kit.layer_files import weight_elements
from search.latency.layer_times import Shape, blocks_of, input_shapes, layer_kind
from search.latency.widths import Widths, least_widths

GRID = 16  # widths of the grids are multiples of it
SHARES = (0.25, 0.5, 0.75, 1.0)  # of a layer's channels, rounded to such multiples
SCANNED = 64  # the end of a scan: it shows steps of up to half of it
SCAN_OFFSETS = (-31, -30, -28, -24, -20, -16, -15, -14, -12, -8, -6, -4, -2, -1, 0)  # from the end of a scan


@dataclass
class LayerKind:
    """Layers that take the same time at the same widths."""

    layer: nn.Module
    """One of them, dense."""
    shapes: list[Shape]
    """Of its dense input in each of its calls."""
    least: tuple[int, int]
    """The smallest widths (in, out) that an allocation can give it."""
    count: int = 1
    """The layers of this kind, in all methods' networks."""
    scanned: set[tuple[int, int]] = field(default_factory=set)
    """Widths (in, out) of scans."""

    @property
    def widths(self) -> tuple[int, int]:
        """The dense ones, (in, out)."""
        return 1 if is_depthwise(self.layer) else channels_of(self.layer, "in"), channels_of(self.layer, "out")

    @property
    def positions(self) -> int:
        """The elements of one channel of its inputs, all calls for one input of the network."""
        spatial = slice(1, -1) if isinstance(self.layer, nn.Linear) else slice(2, None)
        return sum(shape[0] * math.prod(shape[spatial]) for shape in self.shapes)

    @property
    def flops(self) -> int:
        """Of all layers of this kind, dense."""
        return self.count * self.positions * weight_elements(self.layer, *self.widths)

    def axes(self, *, odd: bool) -> tuple[list[int], list[int]]:
        """Widths in and widths out of the grid on multiples of 16, or of the coarse one of odd widths."""
        blocks, widths_of = blocks_of(self.layer), odd_widths if odd else even_widths
        outputs = widths_of(self.widths[1], self.least[1], blocks)
        # A depthwise layer has one width in, whatever it puts out.
        return [1] if is_depthwise(self.layer) else widths_of(self.widths[0], self.least[0], blocks), outputs

    @property
    def points(self) -> set[tuple[int, int]]:
        """Widths (in, out) that are measured: those of both grids and of scans."""
        grids = (self.axes(odd=odd) for odd in (False, True))
        return self.scanned.union(*(itertools.product(*axes) for axes in grids))

    @property
    def is_free(self) -> bool:
        """Whether every width may be any number."""
        return blocks_of(self.layer) == 1


@dataclass(frozen=True)
class StepScan:
    """Neighbouring widths of one side of a layer, the other side fixed: they show the steps of its kernel."""

    kind: str
    side: str
    """`inputs` or `outputs`."""
    other: int
    """The width of the other side."""
    widths: tuple[int, ...]

    @property
    def points(self) -> list[tuple[int, int]]:
        """Widths (in, out)."""
        return [(width, self.other) if self.side == "inputs" else (self.other, width) for width in self.widths]


def layer_kinds(methods: Iterable[tuple[Compressor, Widths]]) -> dict[str, LayerKind]:
    """Every kind of layer that the methods' networks are made of, with the widths to measure."""
    kinds: dict[str, LayerKind] = {}
    for compressor, cost in methods:
        for text, kind in _kinds_of_method(compressor, cost):
            known = kinds.setdefault(text, kind)
            if known is not kind:
                known.least = (min(known.least[0], kind.least[0]), min(known.least[1], kind.least[1]))
                known.count += kind.count
    return kinds


def _kinds_of_method(compressor: Compressor, cost: Widths) -> Iterator[tuple[str, LayerKind]]:
    """The kind of every layer that evaluation calls."""
    network = cost.network
    shapes = input_shapes(network, compressor.example)
    for name, least in zip(cost.layers, least_widths(cost, Ladders(compressor.sites).last), strict=True):
        layer, calls = network.get_submodule(name), shapes.get(name)
        if calls:
            yield layer_kind(layer, calls), LayerKind(layer, calls, least)


def even_widths(width: int, least: int, blocks: int = 1) -> list[int]:
    """Widths from `least` to `width`, multiples of 16 between; below 16 halves of it.

    Args:
        blocks: all widths are multiples of it.
    """
    unit = math.lcm(GRID, blocks)
    wanted = {round(share * width / unit) * unit for share in SHARES} | {GRID // 2, least, width}
    rounded = {max(blocks, round(point / blocks) * blocks) for point in wanted}
    return sorted(point for point in rounded if least <= point <= width)


def odd_widths(width: int, least: int, blocks: int = 1) -> list[int]:
    """Two odd widths above 16, near a half and the whole, or in blocks; the width alone where it has no such choice."""
    half = max(width // 2 // blocks * blocks - blocks, GRID // blocks * blocks + blocks)
    odd = {point for point in (half, width - blocks) if max(least, GRID + 1) <= point < width}
    return sorted(odd) or [width]


def step_scans(kinds: dict[str, LayerKind]) -> list[StepScan]:
    """Scans of the costliest layer with a kernel of several positions, and of the costliest pointwise or linear one."""
    scans = []
    for pointwise in (False, True):
        free = [
            text
            for text, kind in kinds.items()
            if kind.is_free and not is_depthwise(kind.layer) and _is_pointwise(kind.layer) == pointwise
        ]
        for place, side in enumerate(("inputs", "outputs")):
            able = [text for text in free if min(kinds[text].widths) >= GRID and kinds[text].widths[place] >= 2 * GRID
                    and kinds[text].least[place] < 2 * GRID]  # fmt: skip
            if not able:
                continue
            text = max(able, key=lambda text: kinds[text].flops)
            kind = kinds[text]
            end = SCANNED if kind.widths[place] >= SCANNED else 2 * GRID
            widths = tuple(end + offset for offset in SCAN_OFFSETS if end + offset >= max(kind.least[place], GRID))
            other = min(kind.widths[1 - place], SCANNED)
            scans.append(StepScan(text, side, other, widths))
            kind.scanned |= set(scans[-1].points)
    return scans


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or math.prod(getattr(layer, "kernel_size", (1,))) == 1
