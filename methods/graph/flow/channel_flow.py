"""Running a network while labels of channels flow beside its activations."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.graph.flow.call import Call, Planes, named_arguments
from methods.graph.flow.call_recorder import CallRecorder
from methods.graph.flow.index_tensors import Pick
from methods.graph.flow.labels import NEW, Labels
from methods.graph.flow.operators import FACTORIES, made_from_shapes, operator_words, rule_of
from methods.graph.flow.planes import Value
from methods.graph.flow.product_widths import ProductRecorder
from methods.graph.flow.reductions import MEASURES, NORMS, measured_planes
from methods.graph.flow.tensor_values import TensorValues, View, view_of
from methods.graph.flow.width_attributes import AttributeRecorder
from methods.graph.narrow import CHANNEL_NORMS, Side
from methods.graph.operator_recorder import OperatorRecorder
from methods.graph.products import MATRIX_PRODUCTS, memory_of, tensor_attributes, transposed_outputs
from methods.graph.trace import is_attention
from models.execution.tensor_leaves import tensor_leaves
from models.execution.user_line import running_line

# Operators by which a number of the network decides a branch of Python.
_BRANCHES = frozenset(("_local_scalar_dense", "is_nonzero", "item", "gt", "lt", "ge", "le", "eq", "ne"))
TOO_LONG = (
    "the network runs so many operators that its channels could not be followed in time; a smaller example, or one "
    "operator in place of a loop in Python, takes less"
)


class ChannelFlow(OperatorRecorder):
    """While this mode is on, every tensor's planes are kept.

    `labels_new_tensors`: whether tensors that code makes (`torch.zeros(1, 64)`) have labels of their own.

    Attributes:
        labels: all labels.
        splits: planes of dimensions that a view took apart.
        picks: where tensors that the network holds are indices.
        calls: the numbers in the calls that the network's code makes.
        attributes: the integers of modules that equal widths.
        products: those that apply a weight, with the labels of their operands.
        norms: the modules that measure channels together (layer, RMS and group norms).
        end: by the clock of `time.monotonic`; later operators have no labels, and all channels stay.
        needs_labels: whether masking needs them: a matrix product had labelled operands none of which is a parameter,
            or channels were measured (their mean).
    """

    labels_new_tensors = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.labels = Labels()
        self.splits: list[Tensor] = []
        self.picks: list[Pick] = []
        self.visited: dict[str, None] = {}  # modules in the order of their first call, or first use of a tensor
        self.values = TensorValues()
        # Recorders hold these, and not the flow: in a circle, they would keep the network after its last use.
        self.value_of, self.set_value = self.values.value_of, self.values.set_value
        self.attributes = AttributeRecorder(network, self.value_of)
        self.calls = CallRecorder(self.path, self.value_of, self.attributes.note_tensors)
        self.needs_labels = False
        self.suspended = 0
        self.end = math.inf
        self.products = ProductRecorder(network, self.path)
        self.norms = {name for name, module in network.named_modules() if isinstance(module, CHANNEL_NORMS)}
        self._parameters = {memory_of(parameter) for parameter in network.parameters()}
        self._owners: dict[View, str] = {}
        self._sides: dict[tuple[str, str], Tensor] = {}
        for name, tensor in [*network.named_parameters(), *network.named_buffers(), *tensor_attributes(network)]:
            if tensor.dim():
                self._add_tensor(name, tensor)
        for name, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # its code is compiled, and its tensors are not exchanged
                self.pin_module(name, "it is part of a TorchScript module")

    def _add_tensor(self, name: str, tensor: Tensor) -> None:
        planes = []
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                shape = [size if d == dim else 1 for d in range(tensor.dim())]
                planes.append(self.labels.add_dimension(name, dim, size).reshape(shape))
        self._owners[view_of(tensor)] = name
        self.set_value(tensor, Value(tensor.shape, tuple(planes)))

    def pin_module(self, name: str, reason: str) -> None:
        """All channels of a module's own tensors have to stay."""
        for dimension in self.labels.dimensions:
            if dimension.name == name or dimension.name.rpartition(".")[0] == name:
                self.labels.pin(torch.arange(dimension.first, dimension.first + dimension.size), reason)

    def owners_of(self, tensors: Iterable[Tensor]) -> Iterator[str]:
        """The modules whose parameters, buffers or other tensors are among these."""
        names = (self._owners.get(view_of(tensor)) for tensor in tensors)
        return (name.rpartition(".")[0] for name in names if name is not None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Operators run without labels while this lasts."""
        self.suspended += 1
        try:
            yield
        finally:
            self.suspended -= 1

    def grouped_labels(self, weight: Tensor, side: Side, width: int) -> Tensor | None:
        """Labels of the inputs of a convolution in groups: an index of its weight stands for one in every group.

        Of a transposed one, they are those of the outputs. None for a bare weight: nothing there could be narrowed
        group by group.
        """
        owner = self._owners.get(view_of(weight))
        layer = self.path[-1] if owner is None else owner.rpartition(".")[0]
        return self.side_labels(layer, side, width) if layer in self.products.sources.layers else None

    def side_labels(self, name: str, side: str, width: int) -> Tensor:
        """The labels of one side of a module, (width,)."""
        if (name, side) not in self._sides:
            self._sides[name, side] = self.labels.add_dimension(name, side, width)
        return self._sides[name, side]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if not self.suspended and time.monotonic() > self.end:
            self._stop_following()
        if self.suspended:
            result = func(*args, **kwargs)
            self.products.note_call(name, args, kwargs, result, lambda _: ())
            return result
        result = self.run_parts(func, args, kwargs)
        if result is not NotImplemented:
            return result
        self.note_step(name, args, kwargs)
        tensors = tensor_leaves((args, kwargs))
        # Before the operator runs: it may write into its operands.
        before = {id(tensor): self.value_of(tensor) for tensor in tensors}
        self._note_operands(name, tensors, before)
        result = func(*args, **kwargs)
        outputs = tensor_leaves(result)
        self.products.note_call(name, args, kwargs, result, self._product_planes(name, args, before))
        if made_from_shapes(name, len(tensors)) or (name == "expand" and _is_one_number(before[id(tensors[0])])):
            like = before[id(tensors[0])] if tensors else Value(torch.Size())
            values = [Value(output.shape, self._planes_of_new(name, output, like), False) for output in outputs]
        else:
            values = self._apply_rule(func, args, kwargs, before, outputs) if outputs else []
        for output, value in zip(outputs, values, strict=True):
            if func._schema.is_mutable and not value.pending:
                self.values.write_value(output, value)
            else:
                self.set_value(output, value)
        return result

    def _product_planes(self, name: str, args: Any, before: Mapping[int, Value]) -> Callable[[Tensor], Planes]:
        """The labels of a product's operands; a weight whose dimensions do not tell its outputs has those of a side."""
        planes = {key: value.planes for key, value in before.items()}
        if name == "convolution" and (outputs := transposed_outputs(args)) is not None:
            labels = self.grouped_labels(args[1], "out", outputs)
            planes[id(args[1])] = () if labels is None else (labels.reshape(-1, *[1] * (args[1].dim() - 1)),)
        return lambda tensor: planes[id(tensor)]

    def _stop_following(self) -> None:
        """From here on products alone are recorded, for the cost; all channels stay, as none is known wholly."""
        self.suspended += 1
        self.labels.pin(torch.arange(1, self.labels.number), TOO_LONG)

    def _planes_of_new(self, name: str, output: Tensor, like: Value) -> Planes:
        """What has the shape of an operand is cut with it; sizes that the code names go with what they meet."""
        if output.shape == like.shape:
            return like.planes
        varying = [dim for dim, size in enumerate(output.shape) if size > 1]
        if name not in FACTORIES or not self.labels_new_tensors:
            return ()
        # The first of several dimensions is the batch.
        dims = [dim for dim in varying if dim or len(varying) == 1]
        shapes = [[size if d == dim else 1 for d, size in enumerate(output.shape)] for dim in dims]
        return tuple(self.labels.add_dimension("", NEW, max(shape)).reshape(shape) for shape in shapes)

    def _note_operands(self, name: str, tensors: Sequence[Tensor], before: Mapping[int, Value]) -> None:
        self.visited |= dict.fromkeys(self.owners_of(tensors))
        if name not in _BRANCHES:
            for value in before.values():
                for plane, reason in value.pending:
                    self.labels.pin(plane, reason)
        if is_attention(name):
            self.needs_labels = True
        elif name in MATRIX_PRODUCTS:
            factors = [tensor for tensor in tensors[-2:] if memory_of(tensor) not in self._parameters]
            self.needs_labels |= len(factors) == 2 and all(before[id(factor)].planes for factor in factors)

    def _apply_rule(
        self, func: Any, args: Any, kwargs: dict[str, Any], before: Mapping[int, Value], outputs: list[Tensor]
    ) -> list[Value]:
        """What is known of the tensors that an operator returned."""
        name = func.overloadpacket.__name__
        arguments = named_arguments(func._schema, args, kwargs)
        rule = rule_of(func, name, arguments)
        reason = f"{operator_words(name, rule)} in {_place_in_code(self.path[-1])}"
        call = Call(self.labels, name, func, args, kwargs, arguments, lambda tensor: before[id(tensor)], outputs,
                    reason, self.grouped_labels, self.splits, self.picks, self.path[-1] in self.norms)  # fmt: skip
        self._note_measured(call)
        pending = _pending_pins(call, before, outputs[0])
        if pending:
            return [Value(output.shape, (), True, pending) for output in outputs]
        result = rule(call)
        planes_of: list[Planes] = result if isinstance(result, list) else [result] * len(outputs)
        is_data = any(value.is_data for value in before.values())
        values = []
        for output, planes in zip(outputs, planes_of, strict=True):
            varying = tuple(plane for plane in planes if plane.dim() == output.dim() and plane.numel() > 1)
            values.append(Value(output.shape, varying, is_data))
            # What one channel alone decides (a channel that an index picks) has no part that could leave.
            for plane in planes:
                if plane.numel() == 1:
                    self.labels.pin(plane.reshape(-1), reason)
        return values

    def _note_measured(self, call: Call) -> None:
        """Channels that an operator takes together; the trial says whether the others can be measured alone."""
        operand = call.args[0] if call.args else None
        # Modules that normalise are masked by what they are, at the places that the groups name.
        if isinstance(operand, Tensor) and not (call.name in NORMS and call.in_norm):
            for plane in measured_planes(call.name, call.arguments, call.value_of(operand)):
                self.needs_labels = True
                self.labels.note(plane, call.reason)


def _is_one_number(value: Value) -> bool:
    """Repeated (the mean of a distribution), it differs nowhere, whatever channels it meets."""
    return value.shape.numel() == 1 and not value.planes and not value.pending


def _pending_pins(call: Call, before: Mapping[int, Value], output: Tensor) -> tuple[tuple[Tensor, str], ...]:
    """A single number made of channels (their mean) pins them once it is computed with, not if it decides a branch."""
    if output.numel() != 1 or output.dim() != 0 or call.name in MEASURES:
        return ()
    return tuple((plane, call.reason) for value in before.values() for plane in value.planes) + tuple(
        pin for value in before.values() for pin in value.pending
    )


def _place_in_code(module: str) -> str:
    line = running_line()
    return f"{module or 'the network'} ({line})" if line else module or "the network"
