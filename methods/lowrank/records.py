"""The records of `svd` and `tucker`, which differ in the ranks that they try (`factorisation.py`)."""

from __future__ import annotations

from functools import partial

from methods.method_info import MethodInfo
from methods.registry import register
from models.deferred_code import DeferredCode

_FILE = "methods.lowrank.factorisation"
_BLOCK = 16  # channels that AVX-512 takes at a time in float32; that suits AVX2 (8) and tensor cores (8, 16) as well


def _register_factorisation(name: str, tried_ranks: str, summary: str, source: str) -> None:
    info = MethodInfo(name, summary, source, needs_calibration=True, place="second", options={"multiple": _BLOCK})
    register(info, partial(DeferredCode(f"{_FILE}:Factorisation"), info, DeferredCode(f"{_FILE}:{tried_ranks}")))


_register_factorisation(
    "svd",
    "ranks_of_outputs",
    "low rank: each layer through fewer directions of its outputs, then a 1x1 layer",
    "Zhang et al., CVPR 2015, arXiv 1411.4229",
)
_register_factorisation(
    "tucker",
    "ranks_of_both",
    "low rank: a 1x1 layer to fewer directions of the inputs, the kernel, a 1x1 layer to all outputs",
    "Kim et al., ICLR 2016, arXiv 1511.06530; Zhang et al., CVPR 2015, arXiv 1411.4229",
)
