"""Which operators a forward pass runs, in the code of which module, and whose tensors they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.graph.call_arguments import Number, list_numbers
from methods.graph.trace import evaluation_mode, quiet_errors, separate_operators
from models.execution.forward_hooks import module_path
from models.execution.operator_mode import OperatorMode
from models.execution.tensor_leaves import tensor_leaves

READS_DATA = "_local_scalar_dense"  # a number is read off a tensor, for a branch
Owners = Callable[[Iterable[Tensor]], Iterable[str]]


class Step(NamedTuple):
    """An operator in the code of a module, and the numbers that it is given."""

    module: str
    operator: str
    numbers: tuple[Number, ...]


class OperatorRecorder(OperatorMode):
    """While this mode is on, operators are noted in their order.

    Args:
        owners_of: the modules that hold tensors.

    Attributes:
        path: the names of the modules that run, the innermost last.
        steps: the operators.
        reached: the modules in whose code operators run, or whose tensors these read.
    """

    def __init__(self, owners_of: Owners) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.steps: list[Step] = []
        self.reached: set[str] = set()
        self._owners_of = owners_of

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.run_parts(func, args, kwargs)
        if result is not NotImplemented:
            return result
        numbers = tuple(number for _, number in list_numbers((args, kwargs)))
        self.steps.append(Step(self.path[-1], func.overloadpacket.__name__, numbers))
        self.reached.update((self.path[-1], *self._owners_of(tensor_leaves((args, kwargs)))))
        return func(*args, **kwargs)

    def count_operators(self) -> Counter[tuple[str, str]]:
        """How often each operator runs in the code of each module."""
        return Counter(step[:2] for step in self.steps)


def _owners_unknown(_tensors: Iterable[Tensor]) -> Sequence[str]:
    return ()


@quiet_errors()
def record_operators(
    network: nn.Module, images: Tensor, *, training: bool = False, owners_of: Owners = _owners_unknown
) -> OperatorRecorder | None:
    """The operators of a pass; None if the network does not run on such images."""
    recorder = OperatorRecorder(owners_of)
    try:
        with module_path(network, recorder.path), evaluation_mode(network, images), separate_operators(), recorder:
            network.train(training)
            torch.manual_seed(0)
            network(images.clone())
    except Exception:  # whatever the user's code raises
        return None
    return recorder
