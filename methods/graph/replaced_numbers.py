"""Numbers that a network's code hands to operators, and other ones in their place.

Code holds widths: `x.view(-1, 256)`, `x.split([24, 20, 20], 1)`, `q * (dim // heads) ** -0.5`. In a narrowed network
such a call gets the number that fits, whether it is a constant, an attribute, or computed from the shape of another
tensor; the code itself stays as it is. A number is found again by the instruction that makes the call.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods.graph.call_arguments import (
    ATTENTION_SCALE,
    Number,
    Path,
    attention_scale,
    first_shape,
    is_symbol,
    list_numbers,
    replace_numbers,
)
from methods.graph.call_sites import MODULE_CALL, CallSite, Instructions, find_call_site, runs_again


@dataclass(frozen=True)
class NarrowedSize:
    """The size of a tensor in the narrowed network, along one dimension, and in the dense one."""

    dim: int
    dense: int
    narrowed: int


@dataclass(frozen=True)
class Narrowing:
    """What one call gets in place of the code's number.

    Attributes:
        written: the code's number where the network has run: in the dense network or, once noted, in the narrowed one.
        number: the one that fits there.
        scales: whether the code's number is another one for images or batches of another size.
        callers: of the call, see `CallSite`.
        count: how often the instruction had run before in this pass of the module.
        order: the same over all passes of the module in one pass of the network.
        dense: the code's number in the dense network.
        sizes: of the call's first tensor, along the dimensions of its channels.
    """

    written: Number
    number: Number
    scales: bool
    callers: Instructions
    count: int
    order: int
    dense: Number
    sizes: tuple[NarrowedSize, ...]

    @property
    def rule(self) -> tuple[bool, Number | Fraction]:
        """Whether the code's number is multiplied, and with what, or which one takes its place.

        Narrowings of one rule need not be told apart; rounding must not tell roots of widths apart.
        """
        if not self.scales or self.written == 0:
            return False, self.number
        if isinstance(self.number, int) and isinstance(self.written, int):
            return True, Fraction(self.number, self.written)
        return True, float(f"{self.number / self.written:.12g}")

    def fit_number(self, written: Number) -> Number:
        """The number in place of one that the code has written: in proportion, if it depends on sizes."""
        scales, value = self.rule
        if not scales:
            return self.number
        if not isinstance(value, Fraction):
            return written * value
        # A size that is no multiple has come about otherwise: the code's own may be right.
        return written if written % value.denominator else written // value.denominator * value.numerator

    def has_sizes(self, shape: Sequence[int]) -> bool:
        """Whether a tensor may be the call's first one."""
        return all(
            size.dim < len(shape) and (is_symbol(shape[size.dim]) or shape[size.dim] == size.narrowed)
            for size in self.sizes
        )


def choose_narrowing(
    narrowings: Sequence[Narrowing], callers: Instructions, written: Number | None, shape: Sequence[int], count: int
) -> Narrowing | None:
    """The narrowing for a call; None if nothing tells which one it is.

    Calls that are narrowed alike need not be told apart: training may leave some out (stochastic depth), other sizes
    may repeat them. The number of earlier calls comes last, as it holds for passes of the same length alone.

    Args:
        shape: of the call's first tensor.
    """
    tests: list[Callable[[Narrowing], bool]] = [
        lambda narrowing: True,
        lambda narrowing: narrowing.callers == callers,
        lambda narrowing: not is_symbol(written) and narrowing.written == written,
        lambda narrowing: narrowing.has_sizes(shape),
        lambda narrowing: narrowing.count == count,
    ]
    remaining = list(narrowings)
    for test in tests:
        remaining = list(filter(test, remaining)) or remaining
        if len({narrowing.rule for narrowing in remaining}) == 1:
            return remaining[0]
    return None


def are_told_apart(narrowings: Sequence[Narrowing]) -> bool:
    """Whether calls at one place get the right numbers in whatever order they are made, and whichever are left out.

    Calls of the same callers that write the same number are told apart by the sizes of their tensors. Those may be
    equal by chance in another narrowed network, so that each number must be in proportion to its tensor's size.
    """
    alike: dict[tuple[Instructions, Number], list[Narrowing]] = {}
    for narrowing in narrowings:
        alike.setdefault((narrowing.callers, narrowing.dense), []).append(narrowing)
    return all(len({n.rule for n in calls}) == 1 or _follow_one_size(calls) for calls in alike.values())


def _follow_one_size(calls: Sequence[Narrowing]) -> bool:
    """Whether the numbers are the same fraction of the same dimension of their calls' tensors."""
    common = set.intersection(*({(size.dim, size.dense) for size in call.sizes} for call in calls))
    return any(
        all(
            call.number * dense == call.dense * size.narrowed
            for call in calls
            for size in call.sizes
            if (size.dim, size.dense) == (dim, dense)
        )
        for dim, dense in common
    )


NumbersAt = Mapping[Instructions, Mapping[Path, Sequence[Narrowing]]]


class _ReplacingMode(TorchFunctionMode):
    """On while a module runs.

    Args:
        call: the frame in which torch calls the module: other modules that run within it have others.
    """

    def __init__(self, owner: ReplacedNumbers, call: FrameType | None, *, training: bool) -> None:
        super().__init__()
        self._owner, self._call, self._training = owner, call, training
        self._counts: Counter[Instructions] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = (args, kwargs or {})
        # `x.shape` arrives here as well, as a property's `__get__`, which has no numbers.
        if getattr(func, "__name__", "") != "__get__":
            site, frame = find_call_site(sys._getframe())
            paths = self._owner.numbers.get(site.instructions)
            if paths is not None and self._is_own(frame):
                count = self._counts[site.instructions]
                self._counts[site.instructions] += 1
                fitting = self._owner.fit_numbers(site, count, paths, call)
                if fitting and runs_again(site) and (self._training or torch.is_grad_enabled()):
                    raise RuntimeError(
                        "code in a gradient checkpoint runs again in the backward pass, without the numbers that fit"
                    )
                call = replace_numbers(call, fitting)
        return func(*call[0], **call[1])

    def _is_own(self, frame: FrameType | None) -> bool:
        # A module's call goes through several functions of torch, one of which ran the hook that started this mode.
        while frame is not None and frame.f_code.co_filename == MODULE_CALL:
            if frame is self._call:
                return True
            frame = frame.f_back
        return False


NumberPlace = tuple[Instructions, Path]
"""The instructions of a call, and where in it a number stands."""


class _SharedNotes(dict[NumberPlace, bool]):
    """What copies of a network note too: training is tried on one, and its numbers are forgotten like others."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> _SharedNotes:
        return self


class ReplacedNumbers:
    """Other numbers in the calls that one module's own code makes.

    Attributes:
        noting: while it is true, the network runs as it was traced: calls get their numbers in the order of the trace.
        noted: place -> order of the call -> the code's own number, from the time of `noting`.
        observing: whether the code keeps its numbers.
        met: place -> whether a number there differed from the code's, of all places that a pass has come to.
    """

    def __init__(self, numbers: NumbersAt) -> None:
        self.numbers = numbers
        self.noting = self.observing = False
        self.noted: dict[NumberPlace, dict[int, Number]] = {}
        self.met: dict[NumberPlace, bool] = _SharedNotes()
        self._orders: Counter[Instructions] = Counter()
        self._running: list[_ReplacingMode] = []

    def start_noting(self) -> None:
        """The network runs next as it was traced, from its beginning."""
        self.noting = True
        self.noted.clear()
        self._orders.clear()

    def stop_noting(self) -> None:
        """From now on the code's numbers are those that were noted: they are those of this very network."""
        self.noting = False
        self.numbers = {
            instructions: {path: self._known_narrowings((instructions, path), paths[path]) for path in paths}
            for instructions, paths in self.numbers.items()
        }
        self.noted.clear()

    def _known_narrowings(self, place: NumberPlace, narrowings: Sequence[Narrowing]) -> list[Narrowing]:
        """The narrowings with the code's own numbers, without those of passes that were not run again.

        Where none was run again (in training alone), those stay that hold whatever the code's number is.
        """
        noted = self.noted.get(place)
        if noted is None:
            return [narrowing for narrowing in narrowings if not narrowing.scales]
        return [
            replace(narrowing, written=noted[narrowing.order]) for narrowing in narrowings if narrowing.order in noted
        ]

    def fit_numbers(
        self, site: CallSite, count: int, paths: Mapping[Path, Sequence[Narrowing]], call: tuple[Any, dict[str, Any]]
    ) -> dict[Path, Number]:
        """The numbers that a call gets in place of its own."""
        code = dict(list_numbers(call))
        shape = first_shape(call)
        if ATTENTION_SCALE in paths:
            code.setdefault(ATTENTION_SCALE, attention_scale(*call))
        order = self._orders[site.instructions]
        self._orders[site.instructions] += self.noting
        fitting: dict[Path, Number] = {}
        for path, narrowings in paths.items():
            if path not in code or not narrowings:
                continue
            written = code[path]
            if self.noting:
                # The narrowed network's own numbers are not known yet: the trace's order tells its calls apart.
                self.noted.setdefault((site.instructions, path), {})[order] = written
                number = next((n.number for n in narrowings if n.order == order), written)
            else:
                narrowing = choose_narrowing(narrowings, site.callers, written, shape, count)
                number = written if narrowing is None else narrowing.fit_number(written)
            if is_symbol(written) or number != written:
                fitting[path] = number
            place = (site.instructions, path)
            self.met[place] = self.met.get(place, False) or path in fitting
        return {} if self.observing else fitting

    def find_ambiguous_code(self) -> str | None:
        """Code of which no call tells which number it needs, if there is any that needs one."""
        for (instructions, path), differs in self.met.items():
            if differs and not are_told_apart(self.numbers[instructions][path]):
                module, function, *_ = instructions[-1]
                return f"{function} ({module})"
        return None

    def attach(self, module: nn.Module) -> None:
        """From now on, for every forward pass of the module."""
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end, always_call=True)

    def _begin(self, module: nn.Module, _inputs: Any) -> None:
        self._running.append(_ReplacingMode(self, sys._getframe().f_back, training=module.training))
        self._running[-1].__enter__()

    def _end(self, _module: nn.Module, _inputs: Any, _output: Tensor | None) -> None:
        self._running.pop().__exit__(None, None, None)
