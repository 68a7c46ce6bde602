"""Running a network while labels of channels flow beside its activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.graph.flow.labels import Labels, compact
from methods.graph.flow.operators import Call, Planes, made_from_shapes, rule_of
from methods.graph.flow.planes import Value
from methods.graph.narrow import Conv, Norm, channels_of
from methods.graph.trace import evaluation_mode
from models.execution.forward_hooks import forward_hooks
from models.execution.operator_mode import OperatorMode

Key = tuple[Any, ...]


class ChannelFlow(OperatorMode):
    """While this mode is on, every tensor's planes are kept.

    Attributes:
        labels: all labels.
        splits: planes of dimensions that a view took apart.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.labels = Labels()
        self.splits: list[Tensor] = []
        self.path: list[str] = [""]
        self._values: dict[Key, tuple[Tensor, Value]] = {}
        self._aliases: dict[int, dict[Key, None]] = {}
        self._owners: dict[Key, str] = {}
        self._layers = {name: module for name, module in network.named_modules() if isinstance(module, Conv)}
        self.computed: dict[str, list[Tensor | None]] = {}
        self._grouped: dict[str, Tensor] = {}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.dim():
                self._add_tensor(name, tensor)

    def _add_tensor(self, name: str, tensor: Tensor) -> None:
        planes = []
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                shape = [size if d == dim else 1 for d in range(tensor.dim())]
                planes.append(self.labels.add_dimension(name, dim, size).reshape(shape))
        self._owners[_key(tensor)] = name
        self.set_value(tensor, Value(tensor.shape, tuple(planes)))

    def value_of(self, tensor: Tensor) -> Value:
        found = self._values.get(_key(tensor))
        return Value(tensor.shape) if found is None else found[1]

    def set_value(self, tensor: Tensor, value: Value) -> None:
        key = _key(tensor)
        self._values[key] = (tensor, value)  # kept alive, so that no other tensor takes its place in memory
        self._aliases.setdefault(tensor.untyped_storage()._cdata, {})[key] = None

    def grouped_inputs(self, weight: Tensor, width: int) -> Tensor:
        """Labels of the inputs of a grouped convolution: an index of its weight stands for one in every group."""
        owner = self._owners.get(_key(weight))
        name = self.path[-1] if owner is None else owner.rpartition(".")[0]
        if name not in self._grouped:
            self._grouped[name] = self.labels.add_dimension(name, "in", width)
        return self._grouped[name]

    def weight_of(self, weight: Tensor) -> Value:
        """The planes of a convolution's weight; of one that its module computes (weight norm), labels of the module.

        Narrowing such a layer replaces it by a plain one with the weight as it is.
        """
        name = self.path[-1]
        layer = self._layers.get(name)
        if layer is None or weight.dim() < 2 or _key(weight) in self._owners:
            return self.value_of(weight)
        if name not in self.computed:
            out_dim = 1 if getattr(layer, "transposed", False) else 0
            self.computed[name] = [None] * weight.dim()
            for dim, side in ((out_dim, "out"), (1 - out_dim, "in")):
                if side == "out" or getattr(layer, "groups", 1) == 1:
                    shape = [weight.shape[d] if d == dim else 1 for d in range(weight.dim())]
                    self.computed[name][dim] = self.labels.add_dimension(name, side, weight.shape[dim]).reshape(shape)
        planes = tuple(plane for plane in self.computed[name] if plane is not None and plane.numel() > 1)
        return Value(weight.shape, planes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = {id(tensor): self.value_of(tensor) for tensor in tensors}
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not outputs:
            return result
        if made_from_shapes(name, len(tensors)):
            for output in outputs:
                self._store(output, (), is_data=False, in_place=func._schema.is_mutable)
            return result
        arguments = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | {
            a.name: kwargs.get(a.name, a.default_value) for a in func._schema.arguments[len(args):] if a.has_default_value() or a.name in kwargs
        }
        call = Call(self.labels, name, func, args, kwargs, arguments, lambda tensor: before[id(tensor)], outputs,
                    f"{name} in {self.path[-1] or 'the network'}", self.grouped_inputs, self.weight_of, self.splits)  # fmt: skip
        planes = rule_of(func, name, arguments)(call)
        is_data = any(value.is_data for value in before.values())
        for number, output in enumerate(outputs):
            own: Planes = planes[number] if isinstance(planes, list) else planes
            own = tuple(plane for plane in own if plane.dim() == output.dim() and plane.numel() > 1)
            self._store(output, own, is_data=is_data, in_place=func._schema.is_mutable)
        return result

    def _store(self, output: Tensor, planes: Planes, *, is_data: bool, in_place: bool) -> None:
        aliases = self._aliases.get(output.untyped_storage()._cdata, {})
        if in_place and any(key != _key(output) for key in aliases):
            self._write_through(output, planes, is_data=is_data)
        else:
            self.set_value(output, Value(output.shape, planes, is_data))

    def _write_through(self, output: Tensor, planes: Planes, *, is_data: bool) -> None:
        """After a write into memory that other tensors show: their planes are read anew from the largest one's."""
        others = [self._values[key] for key in self._aliases[output.untyped_storage()._cdata] if key in self._values]
        whole, value = max(others, key=lambda pair: pair[0].numel())
        if whole.numel() <= output.numel():
            whole, value = output, Value(output.shape, planes, is_data)
        size = output.untyped_storage().nbytes() // output.element_size()
        written = []
        for number in range(max(len(value.planes), len(planes))):
            memory = torch.zeros(size, dtype=torch.long)
            if number < len(value.planes):
                _show(memory, whole).copy_(value.planes[number].expand(whole.shape))
            if number < len(planes):
                _show(memory, output).copy_(planes[number].expand(output.shape))
            written.append(memory)
        for tensor, old in [*others, (whole, value), (output, value)]:
            read = tuple(plane for memory in written if (plane := compact(_show(memory, tensor).clone())).numel() > 1)
            self.set_value(tensor, Value(tensor.shape, read, old.is_data or is_data))


def _show(memory: Tensor, tensor: Tensor) -> Tensor:
    return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _key(tensor: Tensor) -> Key:
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def trace_channels(network: nn.Module, example: Tensor) -> ChannelFlow:
    """Labels after one forward pass in evaluation; the outputs' channels are pinned."""
    flow = ChannelFlow(network)

    def enter(name: str, _module: nn.Module, _inputs: Any) -> None:
        flow.path.append(name)

    def leave(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        flow.path.pop()

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would run a whole attention block as one operator
    from functools import partial

    modules = [(module, name) for name, module in network.named_modules()]
    before = [(module, partial(enter, name)) for module, name in modules]
    before += [(module, partial(_name_norm, flow, name)) for module, name in modules if _is_bare_norm(module)]
    after = [(module, leave) for module, _ in modules]
    try:
        with forward_hooks(before=before, after=after), evaluation_mode(network, example[:1]), torch.compiler.set_stance("force_eager"), flow:
            outputs = network(example[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            for plane in flow.value_of(leaf).planes:
                flow.labels.pin(plane, "it is an output of the network")
    return flow


def _is_bare_norm(module: nn.Module) -> bool:
    """A norm that knows its width without a tensor of that size."""
    norms = (Norm, nn.GroupNorm, nn.LayerNorm)
    return isinstance(module, norms) and not [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _name_norm(flow: ChannelFlow, name: str, module: nn.Module, inputs: Any) -> None:
    dim = -1 if isinstance(module, nn.LayerNorm) else 1
    value = flow.value_of(inputs[0])
    for plane in value.planes:
        if plane.shape[dim] > 1:
            labels = flow.labels.add_dimension(name, "out", channels_of(module, "out"))
            shape = [1] * plane.dim()
            shape[dim] = len(labels)
            flow.labels.unite(plane, labels.reshape(shape), f"the norm {name}")
            return
