"""Cuts of a network: modules after which no output of an earlier module is used any more.

Up to a cut a network computes the same as another one that has the same modules up to there, so the cut's output can
stand in for all of them. Whether a module is a cut is tried on the dense network: all outputs before are replaced by
NaN, and the network's output must be the same to the bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.graph.trace import evaluation_mode
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Example, Inputs
from models.execution.tensor_leaves import output_leaves

_INTERNAL = vars(nn.Module()).keys()  # what every module has; its own tensors and children are looked at apart


@dataclass(frozen=True)
class Cut:
    """A module that is called once and returns a tensor."""

    name: str
    started: int
    """So many modules had been called when it returned, itself and those inside included."""
    before: tuple[str, ...]
    """The outermost modules that had returned before it did; the forward pass calls them still."""


@dataclass
class _Calls:
    """What one forward pass called, in order."""

    started: list[str] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    ended: list[tuple[str, int]] = field(default_factory=list)  # and how many had started by then
    tensors: set[str] = field(default_factory=set)  # modules that returned a tensor

    def note_call(self, name: str, *_: Any) -> None:
        self.times[name] += 1
        if self.times[name] == 1:
            self.started.append(name)

    def note_return(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.ended.append((name, len(self.started)))
        if isinstance(output, Tensor):
            self.tensors.add(name)


class Outline:
    """The order in which a network calls its modules, and its cuts."""

    def __init__(self, network: nn.Module, example: Example) -> None:
        self._network, self._example = network, Inputs.of(example)
        calls = _Calls()
        before = [(module, partial(calls.note_call, name)) for name, module in network.named_modules()]
        after = [(module, partial(calls.note_return, name)) for name, module in network.named_modules()]
        with forward_hooks(before=before, after=after), evaluation_mode(network, example.device):
            self._outputs = output_leaves(self._example.clone()(network))
        self.order = tuple(calls.started)
        self._always = tuple(name for name, _ in network.named_modules() if name not in calls.times)
        self.candidates = _find_cuts(calls)
        self._valid: dict[str, bool] = {}

    def last_cut(self, started: int) -> Cut | None:
        """The last cut that returns before module number `started` of the order is called; None if there is none."""
        return next((cut for cut in reversed(self.candidates) if cut.started <= started and self._is_valid(cut)), None)

    def _is_valid(self, cut: Cut) -> bool:
        if cut.name not in self._valid:
            self._valid[cut.name] = self._try_cut(cut)
        return self._valid[cut.name]

    def _try_cut(self, cut: Cut) -> bool:
        """Whether the outputs stay what they were, to the bit, with NaN in place of everything before the cut."""
        with evaluation_mode(self._network, self._example.device):
            with record_cut(self._network, cut) as recorded:
                self._example.clone()(self._network)
            try:
                with replay_cut(self._network, cut, recorded):
                    outputs = output_leaves(self._example.clone()(self._network))
                return len(outputs) == len(self._outputs) and all(map(torch.equal, outputs, self._outputs))
            except Exception:  # NaN is not what it can work on
                return False

    def module_digests(self, network: nn.Module) -> tuple[bytes, ...] | None:
        """For each place in the order, what all modules called so far are; None if `network` has not all of them.

        Two networks whose digests agree at a cut compute the same up to there. Modules that are never called, whose
        weights others may use, count from the start.
        """
        modules, state = dict(network.named_modules()), hashlib.blake2b(digest_size=16)
        if not {*self.order, *self._always} <= modules.keys():
            return None
        for name in self._always:
            _digest_module(state, modules[name])
        digests = []
        for name in self.order:
            dense_children = {child for child, _ in self._network.get_submodule(name).named_children()}
            _digest_module(state, modules[name])
            for child, module in modules[name].named_children():
                if child not in dense_children:  # the method has put it there
                    for inner in module.modules():
                        _digest_module(state, inner)
            digests.append(state.digest())
        return tuple(digests)


def _find_cuts(calls: _Calls) -> list[Cut]:
    """Every module that could be one, in the order of their returns; the network itself could not."""
    called_once = {name for name in calls.tensors if calls.times[name] == 1}
    cuts, returned = [], list[str]()
    for name, started in calls.ended:
        returned = [earlier for earlier in returned if not _is_inside(earlier, name)]  # it stands for those inside it
        if name in called_once and name:
            cuts.append(Cut(name, started, tuple(earlier for earlier in returned if earlier in called_once)))
        returned.append(name)
    return cuts


def _is_inside(name: str, outer: str) -> bool:
    return not outer or name.startswith(f"{outer}.")


def _digest_module(state: Any, module: nn.Module) -> None:
    """What a module is by itself: its class, plain attributes, own tensors, and the names of its children."""
    attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    tensors = {**module._parameters, **module._buffers} | {k: v for k, v in attributes.items() if isinstance(v, Tensor)}
    plain = {name: value for name, value in attributes.items() if not isinstance(value, Tensor)}
    state.update(repr((type(module).__qualname__, sorted(plain.items()), list(module._modules))).encode())
    for name, tensor in tensors.items():
        if tensor is not None:
            state.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.stride())).encode())
            state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


# --- what a cut saves ---


@dataclass
class Recorded:
    """The outputs of a cut in call after call, and the shapes of those of the modules before it."""

    max_bytes: float = math.inf
    """Beyond that nothing is kept."""
    outputs: list[Tensor] = field(default_factory=list)
    shapes: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    complete: bool = True

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs)

    def add_output(self, output: Tensor, shapes: dict[str, tuple[int, ...]]) -> None:
        self.complete = self.complete and self.nbytes + output.nbytes <= self.max_bytes
        if self.complete:
            self.outputs.append(output.detach().clone())  # what follows may write into it
            self.shapes.append(dict(shapes))
        else:
            self.outputs.clear()


@contextmanager
def record_cut(network: nn.Module, cut: Cut, max_bytes: float = math.inf) -> Iterator[Recorded]:
    """Keep what the cut returns while the network is called, up to `max_bytes`."""
    recorded, shapes = Recorded(max_bytes), dict[str, tuple[int, ...]]()

    def note_shape(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        shapes[name] = tuple(output.shape)

    def keep_output(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        recorded.add_output(output, shapes)

    hooks = [(network.get_submodule(name), partial(note_shape, name)) for name in cut.before]
    with forward_hooks(after=[*hooks, (network.get_submodule(cut.name), keep_output)]):
        yield recorded


@contextmanager
def replay_cut(network: nn.Module, cut: Cut, recorded: Recorded) -> Iterator[None]:
    """The same calls in the same order, the cut's outputs taken from what was recorded and NaN from all before it."""
    call = 0

    def not_a_number(name: str, *_: Any, **__: Any) -> Tensor:
        return recorded.outputs[call].new_full(recorded.shapes[call][name], torch.nan)

    def next_recorded(*_: Any, **__: Any) -> Tensor:
        nonlocal call
        call += 1
        return recorded.outputs[call - 1].clone()

    with contextlib.ExitStack() as stubs:
        for name in cut.before:
            stubs.enter_context(_replace_forward(network.get_submodule(name), partial(not_a_number, name)))
        stubs.enter_context(_replace_forward(network.get_submodule(cut.name), next_recorded))
        yield


@contextmanager
def _replace_forward(module: nn.Module, stub: Callable[..., Tensor]) -> Iterator[None]:
    """The module's forward pass is `stub`; afterwards it is what it was, its class's or one of its own."""
    own_forward = vars(module).get("forward")
    module.forward = stub
    try:
        yield
    finally:
        del module.forward
        if own_forward is not None:
            module.forward = own_forward
