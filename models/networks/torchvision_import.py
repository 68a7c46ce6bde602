"""torchvision's networks, without what `torch.compile` needs.

`torchvision.ops.roi_align` asks at its import for one function of `torch._dynamo.utils`, which brings all of dynamo,
sympy and Triton: longer than torch itself, for a function that detectors alone call. While torchvision is imported it
gets a function in its place that asks for the real one when it is called.
"""

from __future__ import annotations

import sys
from types import ModuleType

_DYNAMO_UTILS = "torch._dynamo.utils"


def import_torchvision() -> ModuleType:
    """The package with its `models`."""
    if "torchvision" in sys.modules or _DYNAMO_UTILS in sys.modules:
        import torchvision

        return torchvision
    stand_in = ModuleType(_DYNAMO_UTILS)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_DYNAMO_UTILS] = stand_in
    try:
        import torchvision
    except ImportError:  # a version that asks for more
        del sys.modules[_DYNAMO_UTILS]
        import torchvision
    finally:
        if sys.modules.get(_DYNAMO_UTILS) is stand_in:
            del sys.modules[_DYNAMO_UTILS]
    return torchvision


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))
