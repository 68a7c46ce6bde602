"""The record of KSE."""

from __future__ import annotations

from methods.method_info import MethodInfo
from methods.registry import register
from models.deferred_code import DeferredCode

KSE_INFO = MethodInfo(
    name="kse",
    summary="fewer distinct kernels per input channel, by kernel sparsity and entropy; weak channels are not read",
    source="Li et al., CVPR 2019, arXiv 1812.04368",
    plain_layers=False,
    place="second",
    options={"alpha": 1.0, "neighbours": 5},
)
register(KSE_INFO, DeferredCode("methods.kse.kse:KSE"))
