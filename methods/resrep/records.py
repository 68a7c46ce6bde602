"""The record of ResRep."""

from __future__ import annotations

from methods.method_info import MethodInfo
from methods.registry import register
from models.deferred_code import DeferredCode

RESREP = MethodInfo(
    "resrep",
    "rows of compactors are driven to zero while the rest trains, then folded away",
    "Ding et al., ICCV 2021, arXiv 2007.03260",
    learns_allocation=True,
    options={"penalty": 1e-4, "interval": 200, "streams": 0},
)
register(RESREP, DeferredCode("methods.resrep.resrep:ResRep"))
