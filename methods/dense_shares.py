"""Which share of a network's FLOPs lies in layers whose own outputs a method leaves as they are, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from methods.base import Compressor
from methods.graph.trace import trace_layers


@dataclass(frozen=True)
class DenseShare:
    """Layers that stay dense for one reason."""

    reason: str
    layers: tuple[str, ...]
    share: float  # of the network's FLOPs, from 0 to 1


def dense_shares(compressor: Compressor, left_dense: Mapping[str, str]) -> list[DenseShare]:
    """The layers that no site owns, by reason, the largest share of the FLOPs first.

    Their inputs may shrink all the same, with the layers before them: the least that can be kept may be lower.

    Args:
        left_dense: layer or site -> reason; in the names of two methods used as one, `method:layer`.
    """
    owned = {site.name: site.owned or site.layers for site in compressor.sites}
    reasons = {layer: reason for name, reason in left_dense.items() for layer in owned.get(name, (name,))}
    uses = trace_layers(compressor.network, compressor.example)
    flops = {name: use.flops for name, use in uses.items()}
    total = sum(flops.values()) or 1
    touched = {layer for name, layers in owned.items() for layer in layers if name not in left_dense}
    layers_of: dict[str, list[str]] = {}
    for name in flops:
        if name not in touched:
            layers_of.setdefault(_reason_of(name, reasons), []).append(name)
    shares = [
        DenseShare(reason, tuple(names), sum(flops[name] for name in names) / total)
        for reason, names in layers_of.items()
    ]
    return sorted(shares, key=lambda share: -share.share)


def _reason_of(layer: str, reasons: Mapping[str, str]) -> str:
    """Of each of two methods that are used as one, in whose names a layer stands as `method:layer`."""
    found = [reason for name, reason in reasons.items() if name == layer or name.endswith(f":{layer}")]
    return "; ".join(dict.fromkeys(found)) or "the method has no site there"
