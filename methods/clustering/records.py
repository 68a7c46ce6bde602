"""The record of kernel clustering."""

from __future__ import annotations

from methods.method_info import MethodInfo
from methods.registry import register
from models.deferred_code import DeferredCode

KERNEL_CLUSTERING = MethodInfo(
    name="kernel-clustering",
    summary="kernels as scaled, possibly flipped or rotated centroids of a codebook; repeated work is shared",
    source="Son et al., ECCV 2018",
    plain_layers=False,
    has_centroids=True,
    place="second",
    options={"scope": "layer", "transforms": 1, "largest": 512, "seed": 0},
)
register(KERNEL_CLUSTERING, DeferredCode("methods.clustering.kernel_clustering:KernelClustering"))
