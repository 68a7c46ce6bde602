"""The whole networks of a kit: allocations that show how the times of layers add up on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods.base import Compressor, Levels, Site
from models.execution.inputs import Inputs
from search.allocation.allocate import Ladders
from search.allocation.constraints import is_on_step
from search.export.formats import capture_signed, convolve_shortcuts, plain_network, with_plain_outputs, write_onnx
from search.export.signature import describe_signature
from search.kit.computed_weights import compute_weights
from search.kit.layer_points import GRID
from search.latency.layer_times import input_shapes, layer_kind
from search.latency.widths import Widths

STRENGTHS = (0.0, 0.25, 0.5, 0.75)  # of all sites alike
HALF = 0.5  # strength of one half of the sites, the other half dense
RANDOM_ON, RANDOM_OFF = 3, 3  # networks of random widths, on multiples of `GRID` and off them
WEAKEST = 0.25  # share of its channels that a random width keeps at least
SEED = 0
ADVICE = "a kit is made of ONNX files, so take another network or method"


def anchor_levels(sites: Sequence[Site]) -> Levels:
    """Levels of the whole networks that are measured, (n, n_sites), the dense one first.

    All sites alike, either half of them dense, and random ones; most of them on multiples of 16 channels.
    """
    count, middle = len(sites), len(sites) // 2
    wanted = np.repeat(np.array([*STRENGTHS, HALF, HALF])[:, None], count, axis=1)
    wanted[-2, :middle] = wanted[-1, middle:] = 0
    levels = Ladders(sites).levels_at(wanted)
    even = [_levels_on_steps(site) for site in sites]
    for number, allowed in enumerate(even):
        nearest = np.abs(levels[:, number, None] - allowed).argmin(1)
        levels[:, number] = allowed[nearest]
    rng = np.random.default_rng(SEED)
    gentle = [Ladders([site]).levels_at(np.array([[1 - WEAKEST]]))[0, 0] for site in sites]
    on = [[rng.choice(allowed[allowed <= max(last, allowed[0])]) for allowed, last in zip(even, gentle, strict=True)]
          for _ in range(RANDOM_ON)]  # fmt: skip
    off = [[rng.integers(last + 1) for last in gentle] for _ in range(RANDOM_OFF)]
    return np.unique(np.vstack([levels, on, off]).astype(np.intp), axis=0)


def _levels_on_steps(site: Site) -> Levels:
    """The levels of a site that keep multiples of 16 channels, or halves of it; all of a site without widths."""
    levels = [level for level in range(len(site.settings))
              if level == 0 or not site.widths or is_on_step(site.widths[level], GRID)]  # fmt: skip
    return np.array(levels, dtype=np.intp)


def network_features(
    compressor: Compressor, cost: Widths, levels: Levels, numbers: Mapping[str, int]
) -> dict[str, Any]:
    """What predictions of one network, (n_sites,), are made from: its layers by number of kind, widths and share.

    Args:
        numbers: kind of layer -> its number.
    """
    network, shapes = cost.network, input_shapes(cost.network, compressor.example)
    inputs, outputs = (side[0].round(3).tolist() for side in cost.layer_widths(levels[None]))
    shares = cost.position_shares(levels[None])[0].round(6).tolist()
    layers = [
        [numbers[layer_kind(network.get_submodule(name), shapes[name])], *figures]
        for name, *figures in zip(cost.layers, inputs, outputs, shares, strict=True)
        if name in shapes
    ]
    return {"layers": layers, "written": float(cost.written_elements(levels[None])[0])}


def write_network(compressor: Compressor, levels: Levels, path: Path) -> None:
    """The network compressed under one allocation, (n_sites,), as an ONNX file with computed weights.

    For batches of any size, or for one input where the network is written for no more.
    """
    import onnx

    network = convolve_shortcuts(plain_network(compressor.compress(compressor.allocation(levels))))
    example = Inputs.of(compressor.example).repeat(2)
    signature = describe_signature(network, example)
    network = with_plain_outputs(network, example, [info.name for info in signature.outputs])
    with torch.no_grad():
        program, signature = capture_signed(network, example, signature, advice=ADVICE)
        write_onnx(program, path, signature, advice=ADVICE)
    model = onnx.load(path)
    compute_weights(model)
    onnx.save(model, path)
