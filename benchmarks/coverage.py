"""How many of torchvision's and timm's networks can be pruned, and whether counts and outputs are right.

    python benchmarks/coverage.py [--only timm/skresnet18 …] [--out results/coverage.csv] [--limit 600]

Needs `pip install -e '.[coverage]'`. Every network is measured in a process of its own, which ends after `--limit`
seconds, and so is torch-pruning on it; a row is written as it ends. Run again, it goes on with those that have no row;
networks named by `--only` are measured anew, and torch-pruning's figures kept.

    sites           places with a compression level of their own
    touchable       share of the FLOPs that lies in layers of which a site can take channels
    least           smallest part of the FLOPs that can be kept
    kept            part of the FLOPs kept when 0.5 is asked for (all sites by the same ratio, `acra-uniform`)
    exact           products of the narrowed network by torch's formulas, less those of activations alone, and its
                    parameters are the cost model's to the unit, and its outputs those of the masked dense network
    kept_products   part kept of all products, attention's included
    difference      largest difference of outputs from the masked network's, over the largest output
    seconds         finding and trying the sites
    peer_…          torch-pruning with MetaPruner and L1 norms, asked for half of the products, pruned and run
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from benchmarks.coverage_networks import Subject, build_subject, list_networks
from benchmarks.row_files import measure_apart, read_rows, write_rows
from methods.base import copy_network
from methods.dense_shares import dense_shares
from methods.filters.filter_pruning import FilterPruning
from methods.graph.flow.find import trace_groups
from methods.graph.masking import masked_outputs
from methods.graph.narrow import LAYERS
from methods.graph.trace import separate_operators, trace_layers, uncounted_flops
from methods.registry import create
from models.execution.inputs import Inputs
from models.execution.operator_mode import OperatorMode
from models.execution.tensor_leaves import tensor_leaves
from search.allocation.allocate import extreme_levels, project_shape, uniform_shape
from search.allocation.budget import Budget

TARGET = 0.5
PEER_STEPS = 20
# In names of the layers that put out a detector's classes and boxes.
DETECTOR_ENDS = ("cls_logits", "bbox", "predictor", "head.module_list", "ctrness", "kps_score", "mask_fcn_logits")
COLUMNS = (
    "network", "image", "part", "params", "sites", "touchable", "least", "kept", "exact", "kept_products", "difference",
    "seconds", "left_dense", "fault", "peer_kept", "peer_seconds", "peer_fault",
)  # fmt: skip


def measure_ours(subject: Subject) -> dict[str, Any]:
    """The row of one network, without torch-pruning's part."""
    start = time.perf_counter()
    compressor = create("l1", subject.network, subject.image)
    seconds = time.perf_counter() - start
    assert isinstance(compressor, FilterPruning)
    row = {
        "image": subject.image.shape[-1],
        "part": subject.part,
        "params": sum(parameter.numel() for parameter in subject.network.parameters()),
        "sites": len(compressor.sites),
        "seconds": round(seconds, 2),
        "left_dense": largest_reason(compressor),
        "touchable": 0.0,
        "least": 1.0,
    }
    if not compressor.sites:
        return row
    dense = compressor.cost.dense
    least = extreme_levels(compressor.sites)[0]
    row["touchable"] = round(touchable_share(compressor), 4)
    row["least"] = round(int(compressor.cost(least[None]).flops[0]) / dense.flops, 4)
    levels = least
    if row["least"] <= TARGET:
        budget = Budget({"flops": int(TARGET * dense.flops)}, compressor.cost)
        levels = project_shape(uniform_shape(len(compressor.sites)), compressor.sites, budget).levels
    return row | check_narrowed(compressor, levels, subject)


def check_narrowed(compressor: FilterPruning, levels: Any, subject: Subject) -> dict[str, Any]:
    """What the network with these levels really costs and computes."""
    allocation = compressor.allocation(levels)
    predicted, small = compressor.cost_of(allocation), compressor.compress(allocation).eval()
    difference = masked_difference(compressor, small, compressor.kept_channels(allocation, compressor.removal_levels))
    params = sum(parameter.numel() for parameter in small.parameters())
    products = count_products(small, subject.image)
    is_exact = predicted.flops + uncounted_flops(small, subject.image) == products and predicted.params == params
    return {
        "kept": round(predicted.flops / compressor.cost.dense.flops, 4),
        "exact": "yes" if is_exact and difference < 1e-6 else "no",
        "kept_products": round(products / count_products(subject.network, subject.image), 4),
        "difference": f"{difference:.1e}",
    }


@torch.no_grad()
def masked_difference(compressor: FilterPruning, small: nn.Module, kept: dict[str, Tensor]) -> float:
    """Largest difference from the masked network's outputs in float64, over the largest output."""
    channels, image = compressor.channels, compressor.example[:1]
    traced = trace_groups(channels.network, Inputs.of(image), trace_layers(channels.network, image))
    dense = copy_network(channels.network).double()
    masked = masked_outputs(dense, channels.groups, kept, Inputs.of(image.double()), traced)
    outputs = tensor_leaves(copy_network(small).double()(image.double()))
    scale = max(float(output.abs().max()) for output in masked) or 1.0  # a network may be dead on noise
    return max(float((a - b).abs().max()) for a, b in zip(outputs, masked, strict=True)) / scale


class ProductCounter(OperatorMode):
    """Multiply-accumulates of all products by torch's formulas, and of attention, which torch omits on CPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.products += formula(*args, **(kwargs or {}), out_val=result) // 2
        elif "scaled_dot_product" in func.overloadpacket.__name__:
            self.products += sdpa_flop_count(*(tensor.shape for tensor in args[:3])) // 2
        return result


def count_products(network: nn.Module, image: Tensor) -> int:
    """Of one image; torch does not count LSTMs, which apply all their matrices at every step."""
    counter = ProductCounter()

    def count_steps(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        matrices = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)
        counter.products += inputs[0].shape[:-1].numel() * matrices

    hooks = [module.register_forward_hook(count_steps) for module in network.modules() if isinstance(module, nn.LSTM)]
    with separate_operators(), torch.no_grad(), counter:
        network(image)
    for hook in hooks:
        hook.remove()
    return counter.products


def touchable_share(compressor: FilterPruning) -> float:
    """The share of the FLOPs in layers whose inputs or outputs a site can narrow."""
    cost: Any = compressor.cost
    flops = cost.layer_flops(cost.kept_channels(extreme_levels(compressor.sites)))
    changed = sum(dense for least, dense in flops.values() if least != dense)
    return float(changed / sum(dense for _, dense in flops.values()))


def largest_reason(compressor: FilterPruning) -> str:
    """Why the layers stay that cost most, outputs apart, with their share of the FLOPs."""
    shares = [share for share in dense_shares(compressor, compressor.skipped) if "output of" not in share.reason]
    return f"{shares[0].share:.1%} {shares[0].layers[0]}: {shares[0].reason}" if shares and shares[0].share else ""


def measure_peer(subject: Subject) -> dict[str, Any]:
    """torch-pruning as its README shows it: layers that make the outputs are ignored, all others by one ratio."""
    network, image = subject.network, subject.image
    dense, start = count_products(network, image), time.perf_counter()
    with torch.no_grad():
        shapes = [output.shape for output in tensor_leaves(network(image))]
    widths = {shape[1] for shape in shapes if len(shape) > 1}
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, LAYERS)]
    ends = [m for name, m in layers if m.weight.shape[0] in widths or any(word in name for word in DETECTOR_ENDS)]
    pruner = tp.pruner.MetaPruner(
        network,
        image,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.95,
        iterative_steps=PEER_STEPS,
        ignored_layers=ends,
    )
    kept = 1.0
    for _ in range(PEER_STEPS):
        pruner.step()
        kept = count_products(network, image) / dense
        if kept <= TARGET:
            break
    with torch.no_grad():
        after = [output.shape for output in tensor_leaves(network(image))]
    fault = "" if after == shapes else "its outputs have other shapes"
    if not fault and kept > TARGET:
        fault = "0.5 is not reached"
    return {"peer_kept": round(kept, 4), "peer_seconds": round(time.perf_counter() - start, 2), "peer_fault": fault}


def print_totals(rows: dict[str, dict[str, Any]]) -> None:
    table = list(rows.values())
    met = [row for row in table if row.get("kept") and float(row["kept"]) <= TARGET and row["exact"] == "yes"]
    peers = [row for row in table if row.get("peer_kept") and not row.get("peer_fault")]
    inexact = [row["network"] for row in table if row.get("exact") == "no"]
    faults = [row["network"] for row in table if row.get("fault")]
    print(f"{len(table)} networks; at kept {TARGET} and exact: {len(met)}, torch-pruning {len(peers)}")
    print(f"inexact: {inexact}; faults: {faults}")


def main() -> None:
    """Measure what has no row yet, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="measure these, as suite/name")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "results" / "coverage.csv")
    parser.add_argument("--limit", type=float, default=600, help="seconds for a network, and for torch-pruning on it")
    parser.add_argument("--without-peer", action="store_true", help="leave torch-pruning out")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(list_networks()):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; names are suite/name, e.g. timm/skresnet18")
    rows = read_rows(arguments.out)
    for name in arguments.only or [name for name in list_networks() if name not in rows]:
        figures = measure_apart(lambda name: measure_ours(build_subject(name)), name, arguments.limit)
        known = {key: value for key, value in rows.get(name, {}).items() if key.startswith("peer")}
        if not any(known.values()) and not arguments.without_peer:
            known = measure_apart(
                lambda name: measure_peer(build_subject(name)), name, arguments.limit, fault="peer_fault"
            )
        figures |= known
        rows = read_rows(arguments.out) | {name: {"network": name, **figures}}
        write_rows(arguments.out, COLUMNS, rows, list_networks())
        print(json.dumps(rows[name]), flush=True)
    print_totals(rows)


if __name__ == "__main__":
    main()
