"""A kit's folder: ONNX files of layers and whole networks, what they are (`kit.json`), the script for the device.

The layers' times are what predictions are made from; whole networks tell how they add up on the device
(`search/latency/device_table.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from methods.base import Compressor
from search.files.atomic import atomic_write
from search.kit import measure
from search.kit.anchors import anchor_levels, network_features, write_network
from search.kit.layer_files import layer_model, weight_elements
from search.kit.layer_points import LayerKind, layer_kinds, step_scans
from search.latency.device_file import kit_digest
from search.latency.progress import ProgressLines, Say
from search.latency.widths import checked_widths

COPIES, FEW_COPIES = 4, 2
MANY_WEIGHTS = 2_000_000  # elements of a layer; one with more of them is measured with few copies
GROUP_WEIGHTS = 24_000_000  # elements of all weights that are in memory at once, but for a layer that has more


def write_kit(
    compressors: Sequence[Compressor], folder: Path, *, name: str, network: str, say: Say, settings: str = ""
) -> dict[str, Any]:
    """Write a kit of all methods into an empty folder, or a new one; returns its record, `kit.json`.

    Args:
        compressors: methods that are bound to the same network, on the CPU.
        network: its name, for people.
        settings: digest of what the kit is made of.

    Raises:
        UserError: a method whose layers' widths are not known, or a network that cannot be written as ONNX.
    """
    methods = [(compressor, checked_widths(compressor, instead="")) for compressor in compressors]
    kinds = layer_kinds(methods)
    scans = step_scans(kinds)
    anchors = [(compressor, cost, levels) for compressor, cost in methods for levels in anchor_levels(compressor.sites)]
    progress = ProgressLines(say, len(kinds) + len(anchors), "files of the kit", "written")
    numbers = {text: number for number, text in enumerate(kinds)}
    layers, networks, groups, files = [], [], dict[str, list[str]](), dict[str, dict[str, int]]()
    for text, kind in kinds.items():
        points = _write_layer(kind, folder, f"layers/{numbers[text]:03}")
        for part, chunk in enumerate(_chunks(kind, points)):
            paths = [point[key] for point in chunk for key in ("one", "many")]
            groups[f"layers {numbers[text]:03}.{part:02}"] = paths
            files |= {path: {f"x{call}": shape[0] for call, shape in enumerate(kind.shapes)} for path in paths}
        axes = {"even": kind.axes(odd=False), "odd": kind.axes(odd=True)}
        layers.append({"kind": text, "positions": kind.positions, **axes, "points": points})
        progress.count_one()
    (folder / measure.NETWORKS).mkdir(parents=True, exist_ok=True)
    for number, (compressor, cost, levels) in enumerate(anchors):
        path = f"{measure.NETWORKS}/{number:02}.onnx"
        write_network(compressor, levels, folder / path)
        networks.append({"file": path, **network_features(compressor, cost, levels, numbers)})
        progress.count_one()
    groups[measure.NETWORKS] = [entry["file"] for entry in networks]
    record = {
        "schema": measure.SCHEMA,
        "name": name,
        "network": network,
        "settings": settings,
        "methods": [compressor.info.name for compressor in compressors],
        "layers": layers,
        "scans": [asdict(scan) for scan in scans],
        "networks": networks,
        "groups": groups,
        "files": files | {path: {} for path in groups[measure.NETWORKS]},
    }
    record["digest"] = kit_digest(record)
    shutil.copyfile(measure.__file__, folder / "measure.py")
    atomic_write(folder / measure.KIT, json.dumps(record) + "\n")
    return record


def _write_layer(kind: LayerKind, folder: Path, stem: str) -> list[dict[str, Any]]:
    """The files of a layer at all widths to measure."""
    import onnx

    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    points = []
    for inputs, outputs in sorted(kind.points):
        copies = COPIES if weight_elements(kind.layer, inputs, outputs) < MANY_WEIGHTS else FEW_COPIES
        paths = {"one": f"{stem}-{inputs}-{outputs}-1.onnx", "many": f"{stem}-{inputs}-{outputs}-{copies}.onnx"}
        for path, count in zip(paths.values(), (1, copies), strict=True):
            onnx.save(layer_model(kind.layer, kind.shapes, inputs, outputs, count), folder / path)
        points.append({"inputs": inputs, "outputs": outputs, "copies": copies, **paths})
    return points


def _chunks(kind: LayerKind, points: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The points of a layer in parts that fit into memory together."""
    chunk, total = list[Mapping[str, Any]](), 0
    for point in points:
        weights = weight_elements(kind.layer, point["inputs"], point["outputs"]) * (1 + point["copies"])
        if chunk and total + weights > GROUP_WEIGHTS:
            yield chunk
            chunk, total = [], 0
        chunk.append(point)
        total += weights
    if chunk:
        yield chunk
