"""Which operators a forward pass runs, in the code of which module, and whose tensors they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods.graph.call_arguments import Number, list_numbers
from methods.graph.steady_draws import SteadyDraws
from methods.graph.trace import evaluation_mode, quiet_errors, separate_operators
from models.execution.forward_hooks import module_path
from models.execution.inputs import Inputs
from models.execution.operator_mode import OperatorMode
from models.execution.random_state import random_state
from models.execution.tensor_leaves import tensor_leaves

READS_DATA = "_local_scalar_dense"  # a number is read off a tensor, for a branch
DATA_READERS = frozenset((READS_DATA, "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"))
"""Operators whose result, or the shape of it, the data decide."""
_LEAVES_TORCH = frozenset(("tolist", "numpy", "__array__"))


class Step(NamedTuple):
    """An operator in the code of a module, and the numbers that it is given."""

    module: str
    operator: str
    numbers: tuple[Number, ...]


class OperatorRecorder(OperatorMode):
    """While this mode is on, operators are noted in their order.

    Attributes:
        path: the names of the modules that run, the innermost last.
        steps: the operators.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.run_parts(func, args, kwargs)
        if result is not NotImplemented:
            return result
        self.note_step(func.overloadpacket.__name__, args, kwargs)
        return func(*args, **kwargs)

    def note_step(self, operator: str, args: Any, kwargs: dict[str, Any]) -> None:
        """An operator runs."""
        numbers = tuple(number for _, number in list_numbers((args, kwargs)))
        self.steps.append(Step(self.path[-1], operator, numbers))

    def count_operators(self) -> Counter[tuple[str, str]]:
        """How often each operator runs in the code of each module."""
        return Counter(step[:2] for step in self.steps)


class DataReads(TorchFunctionMode):
    """Notes where code takes a tensor's data out of torch, of which no operator tells."""

    def __init__(self, recorder: OperatorRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _LEAVES_TORCH:
            self._recorder.note_step(READS_DATA, (), {})
        return func(*args, **(kwargs or {}))


class ReachRecorder(OperatorRecorder):
    """Notes as well which modules a pass reaches.

    Args:
        owners_of: the modules that hold tensors.

    Attributes:
        reached: the modules in whose code operators run, or whose tensors these read.
    """

    def __init__(self, owners_of: Callable[[Iterable[Tensor]], Iterable[str]]) -> None:
        super().__init__()
        self.reached: set[str] = set()
        self._owners_of = owners_of

    def note_step(self, operator: str, args: Any, kwargs: dict[str, Any]) -> None:
        super().note_step(operator, args, kwargs)
        self.reached.update((self.path[-1], *self._owners_of(tensor_leaves((args, kwargs)))))


Recorder = TypeVar("Recorder", bound=OperatorRecorder)


@quiet_errors()
def record_operators(
    network: nn.Module, images: Inputs, recorder: Recorder, *, training: bool = False
) -> Recorder | None:
    """The recorder, after a pass; None if the network does not run on such images."""
    inputs = images.clone()  # code may write into them
    try:
        with (
            module_path(network, recorder.path), evaluation_mode(network, inputs.device), separate_operators(),
            random_state(inputs.device, 0), SteadyDraws(), recorder, DataReads(recorder),
        ):  # fmt: skip
            network.train(training)
            inputs(network)
    except Exception:  # whatever the user's code raises
        return None
    return recorder
