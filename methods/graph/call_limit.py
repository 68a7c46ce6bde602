"""A bound on the module calls of a forward pass: without its channels, code that waits for a width may never end."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from methods.graph.trace import evaluation_mode, fitting_inputs, quiet_errors
from models.execution.forward_hooks import hookable_modules
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.user_line import EndlessPassError

MOST_REPEATS = 20  # training and larger images may call modules more often than the example does


class _CallLimit:
    """Counts the module calls of the pass that runs, of a network or of any copy, and ends it where there are too many.

    Attributes:
        passes: how many have begun.
        calls: of the last one.
        most: of any pass.
    """

    def __init__(self) -> None:
        self.passes = self.calls = 0
        self.most = sys.maxsize

    def __deepcopy__(self, _memo: dict[int, Any]) -> _CallLimit:
        return self

    def begin_pass(self, _network: nn.Module, _inputs: Any) -> None:
        self.passes, self.calls = self.passes + 1, 0

    def count_call(self, _module: nn.Module, _inputs: Any) -> None:
        self.calls += 1
        if self.calls > self.most:
            raise EndlessPassError


@quiet_errors()
def with_limited_calls(network: nn.Module, example: Inputs) -> nn.Module:
    """A copy whose passes, as those of its copies, raise `EndlessPassError` after far more calls than the example's."""
    # Hooks of the modules themselves: copies of the network have them too.
    limited, limit = copy_on_write(network), _CallLimit()
    modules = hookable_modules(limited)
    limited.register_forward_pre_hook(limit.begin_pass)
    for _, module in modules:
        module.register_forward_pre_hook(limit.count_call)
    counted, inputs = copy_on_write(limited), fitting_inputs(network, example)
    with evaluation_mode(counted, inputs.device):
        inputs(counted)
    if not limit.passes:  # a copy of a traced graph has lost them: its code has no loops
        return network
    # Modules that the example does not reach count as well: training or other images may call them.
    limit.most = MOST_REPEATS * (limit.calls + len(modules))
    return limited
