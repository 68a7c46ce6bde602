"""Which numbers in a network's code do not fit without its channels, and which ones take their place.

Most are right by themselves. What the others depend on is learned on other images, batches and in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from methods.graph.call_arguments import Number, Path
from methods.graph.call_sites import CallSite, Instructions
from methods.graph.changed_inputs import images_of_other_sizes, make_noise
from methods.graph.flow.index_tensors import IndexTensor
from methods.graph.flow.width_attributes import WidthAttribute
from methods.graph.replaced_numbers import NarrowedSize, Narrowing, NumberPlace, ReplacedNumbers
from methods.graph.trace import evaluation_mode, fitting_inputs, quiet_errors, separate_operators
from methods.graph.visibility import with_visible_factors
from models.execution.forward_hooks import hookable_modules
from models.execution.inputs import Inputs

Notes = dict[tuple[str, NumberPlace], set[Number]]
"""Module and place in its code -> the numbers there."""

CONTENT_SCALES = (10.0, -10.0)
ALWAYS = -1  # the unit of what is never removed


@dataclass(frozen=True)
class CallNumber:
    """A number in a call that a module's code makes.

    Attributes:
        count: how often the instruction had run before in this pass of the module.
        order: the same over all passes of the module.
        training: whether the module was in training.
        dense: what it is in the dense network.
        units: of each of the `dense` indices that it counts, (dense, m): an index stays if one of its units does;
            None for a factor and for what is never removed, which stay as they are.
        is_factor: whether it counts nothing.
        operand: the channels of the call's first tensor: dimension, size in the dense network, and units as above.
        scales: whether it is another number for images or batches of another size.
    """

    module: str
    site: CallSite
    path: Path
    count: int
    order: int
    training: bool
    dense: Number
    units: Tensor | None
    is_factor: bool
    operand: tuple[tuple[int, int, Tensor | None], ...]
    scales: bool = False

    @property
    def place(self) -> tuple[str, NumberPlace]:
        """What is noted together: the module and the place in its code."""
        return self.module, (self.site.instructions, self.path)

    def narrow_number(self, stays: Tensor) -> Narrowing:
        """The number where only some units stay; `stays` (number of units + 1,), its last entry is for `ALWAYS`."""
        number = self.dense
        if self.units is not None:
            count = _count_staying(self.units, stays)
            number = -count if self.dense < 0 else count
        sizes = tuple(
            NarrowedSize(dim, dense, dense if units is None else _count_staying(units, stays))
            for dim, dense, units in self.operand
        )
        return Narrowing(
            written=self.dense,
            number=number,
            scales=self.scales,
            callers=self.site.callers,
            count=self.count,
            order=self.order,
            dense=self.dense,
            sizes=sizes,
        )


def _count_staying(units: Tensor, stays: Tensor) -> int:
    return int(stays[units].any(-1).sum())


class CallNumbers:
    """The numbers in the code of a network that do not fit without its channels.

    Attributes:
        first: group -> its first unit; the units of a group are its channels.
    """

    def __init__(
        self,
        candidates: Sequence[CallNumber],
        first: Mapping[str, int],
        units: int,
        attributes: Sequence[WidthAttribute] = (),
        indices: Sequence[IndexTensor] = (),
    ) -> None:
        self.first, self._units = dict(first), units
        self._candidates, self._attributes, self._indices = list(candidates), list(attributes), list(indices)
        self._rewritten: set[str] = set()  # modules whose attributes are written anew

    @property
    def are_none(self) -> bool:
        """Whether the code holds no number that may be a width."""
        return not (self._candidates or self._attributes or self._indices)

    def rewrite_attributes(self, module: str) -> bool:
        """Write the widths that a module holds as attributes from now on; False if there are none, or it is done."""
        if module in self._rewritten or all(attribute.module != module for attribute in self._attributes):
            return False
        self._rewritten.add(module)
        return True

    def leave_attributes(self, module: str) -> None:
        """Never write the attributes of a module: they are no widths, or do not help."""
        self._attributes = [attribute for attribute in self._attributes if attribute.module != module]

    def write_numbers(
        self, network: nn.Module, staying: Mapping[str, Tensor], example: Inputs
    ) -> dict[str, ReplacedNumbers]:
        """Let the code of a narrowed network get the numbers that fit, in place.

        Args:
            staying: group -> the channels that it keeps; all, if it is not named.
            example: a batch of which the trace has seen the first image.
        """
        stays = torch.ones(self._units + 1, dtype=torch.bool)
        ends = [*sorted(self.first.values()), self._units]
        for name, channels in staying.items():
            if name in self.first:
                start = self.first[name]
                stays[start : ends[ends.index(start) + 1]] = False
                stays[start + channels] = True
        for attribute in self._attributes:
            if attribute.module in self._rewritten:
                setattr(network.get_submodule(attribute.module), attribute.name, attribute.count_staying(stays))
        for tensor in self._indices:
            tensor.rewrite(network, stays)
        written = self._attach_numbers(network, stays)
        if any(_must_be_told_apart(replacement) for replacement in written.values()):
            # The code's own numbers tell the calls apart, and may be widths themselves: of another layer.
            _note_numbers(network, example.first(), written)
        return written

    def _attach_numbers(self, network: nn.Module, stays: Tensor) -> dict[str, ReplacedNumbers]:
        numbers: dict[str, dict[Instructions, dict[Path, list[Narrowing]]]] = {}
        for entry in self._candidates:
            paths = numbers.setdefault(entry.module, {}).setdefault(entry.site.instructions, {})
            paths.setdefault(entry.path, []).append(entry.narrow_number(stays))
        hookable = dict(hookable_modules(network))
        written = {name: ReplacedNumbers(own) for name, own in numbers.items() if name in hookable}
        for name, replacement in written.items():
            replacement.attach(hookable[name])
        return written

    def keep_needed(self, runs: Sequence[Mapping[str, ReplacedNumbers]]) -> None:
        """Forget the numbers that the code gets right by itself, in all of several narrowed networks that have run."""
        needed: dict[tuple[str, NumberPlace], bool] = {}  # code that only training runs was not met
        for name, written in (item for run in runs for item in run.items()):
            for place, differs in written.met.items():
                needed[name, place] = needed.get((name, place), False) or differs
        self._candidates = [entry for entry in self._candidates if needed.get(entry.place, True)]

    @quiet_errors()
    def observe_inputs(self, network: nn.Module, example: Inputs) -> None:
        """Learn on other inputs which numbers depend on the input's size; forget those that its contents decide.

        How many boxes are left is no width, and is another number in a narrowed network.

        Args:
            network: a copy of the dense network.
            example: a batch of one input or more; the trace has seen one.
        """
        if not self._candidates:
            return
        stays = torch.ones(self._units + 1, dtype=torch.bool)
        visible = with_visible_factors(network)
        written, visible_written = self._attach_numbers(network, stays), self._attach_numbers(visible, stays)
        dense: Notes = {}
        for entry in self._candidates:
            dense.setdefault(entry.place, set()).add(entry.dense)
        evaluated = {entry.place for entry in self._candidates if not entry.training}
        # The trace has seen one image in evaluation, and two where it has traced training.
        batch = make_noise(example, 2 if len(evaluated) == len(dense) else 3)
        single = _observe_pass(network, make_noise(example, 1), written)
        # Other weights make other boxes, as narrowing does; one batch alone may meet a limit on their number.
        variants = [example.first(), *(example.first().scale(scale) for scale in CONTENT_SCALES)]
        contents = [single, *(_observe_pass(visible, image, visible_written) for image in variants)]
        if len(evaluated) < len(dense):
            traced = example.training or example.repeat(2)
            contents += [_observe_pass(visible, inputs, visible_written, 0) for inputs in (traced, traced.scale(10.0))]
        by_contents = {place for notes in contents for place, numbers in notes.items() if not numbers <= dense[place]}
        same_size = [_observe_pass(network, batch, written) or single]
        if len(evaluated) < len(dense):  # training may draw numbers at random
            same_size += [_observe_pass(network, example.training or batch, written, seed) for seed in (1, 2)]
        other_sizes = [_observe_pass(network, images, written) for images in images_of_other_sizes(example)]
        unsteady = {place for notes in same_size for place, numbers in notes.items() if not numbers <= dense[place]}
        # A factor counts nothing: only one that is steady, or in proportion to sizes, can stay as in the dense network.
        unsteady_factors = unsteady | (dense.keys() - evaluated).difference(*same_size)
        scaling = {place for notes in other_sizes for place, numbers in notes.items() if not numbers <= dense[place]}
        self._candidates = [
            replace(entry, scales=entry.place in unsteady | scaling)
            for entry in self._candidates
            if entry.place not in by_contents and not (entry.is_factor and entry.place in unsteady_factors)
        ]


def _observe_pass(
    network: nn.Module, images: Inputs, written: Mapping[str, ReplacedNumbers], training_seed: int | None = None
) -> Notes:
    """The numbers that the code has in a pass; none if the network does not run on such images."""
    for replacement in written.values():
        replacement.start_noting()
        replacement.observing = True
    try:
        _run_plainly(network, images, training_seed)
    except Exception:  # it may want one size alone
        return {}
    return {
        (name, place): set(numbers.values())
        for name, replacement in written.items()
        for place, numbers in replacement.noted.items()
    }


def _must_be_told_apart(replacement: ReplacedNumbers) -> bool:
    """Whether the place alone does not say which number a call gets."""
    return any(
        narrowings[0].scales or len({narrowing.rule for narrowing in narrowings}) > 1
        for paths in replacement.numbers.values()
        for narrowings in paths.values()
    )


def _note_numbers(network: nn.Module, image: Inputs, written: Mapping[str, ReplacedNumbers]) -> None:
    for replacement in written.values():
        replacement.start_noting()
    _run_plainly(network, image)
    for replacement in written.values():
        replacement.stop_noting()


def _run_plainly(network: nn.Module, images: Inputs, training_seed: int | None = None) -> None:
    """A pass operator by operator, as in the trace: in evaluation, unless a seed for training is given."""
    inputs = fitting_inputs(network, images)
    with evaluation_mode(network, inputs.device), separate_operators():
        if training_seed is not None:
            network.train()
            torch.manual_seed(training_seed)
        inputs(network)
