"""Seeing the operators that a network runs, without the seconds that importing torch's compiler takes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):
    """A dispatch mode that torch does not wrap for `torch.compile`; a subclass defines `__torch_dispatch__`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch._dynamo at the first operator

    def run_parts(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of a composite operator, whose parts come to this mode one by one; NotImplemented for any other.

        Outside of `inference_mode`, torch takes composite operators apart before a mode sees them.
        """
        composite = torch._C.DispatchKey.CompositeImplicitAutograd
        # `func.decompose` would also take operators apart of which torch has only a Python version for its compiler.
        if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
            return NotImplemented
        with self:
            return func._op_dk(composite, *args, **kwargs)
