"""The records of the methods that remove channels: a criterion each (`filter_pruning.py`), and `obs`."""

from __future__ import annotations

from functools import partial
from typing import Any

from methods.method_info import MethodInfo
from methods.registry import register
from models.deferred_code import DeferredCode

_FILE = "methods.filters.filter_pruning"


def _register_criterion(name: str, function: str, summary: str, source: str, **capabilities: Any) -> None:
    info = MethodInfo(name, f"filter pruning, {summary}", source, place="first", **capabilities)
    register(info, partial(DeferredCode(f"{_FILE}:FilterPruning"), info, DeferredCode(f"{_FILE}:{function}")))


_register_criterion("l1", "score_by_l1", "smallest L1 norm first", "Li et al., ICLR 2017, arXiv 1608.08710")
_register_criterion("l2", "score_by_l2", "smallest L2 norm first", "He et al., IJCAI 2018, arXiv 1808.06866")
_register_criterion(
    "fpgm", "score_by_distance", "nearest to the geometric median first", "He et al., CVPR 2019, arXiv 1811.00250"
)
_register_criterion(
    "bn-scale", "score_by_bn_scale", "smallest batch-norm scale first", "Liu et al., ICCV 2017, arXiv 1708.06519"
)
_register_criterion(
    "taylor",
    "score_by_loss_change",
    "smallest first-order change of the loss first",
    "Molchanov et al., CVPR 2019, arXiv 1906.10771",
    needs_calibration=True,
)
_register_criterion("random", "score_at_random", "at random: the control", "control", options={"seed": 0})

OBS = MethodInfo(
    "obs",
    "filter pruning, least error at the layers that read the channels first; those are repaired by least squares",
    "Hassibi and Stork, NIPS 1992; Kurtić et al., 2023, arXiv 2302.04089; He et al., ICCV 2017, arXiv 1707.06168",
    needs_calibration=True,
    place="first",
)
register(OBS, DeferredCode("methods.filters.obs:SurgeonPruning"))
