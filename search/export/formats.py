"""The deployable forms of a network: `torch.export` program and ONNX, both with any batch size, and their trial.

Everything here happens on the CPU in float32. `onnx`, `onnxscript` and `onnxruntime` are optional.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from methods.base import copy_network
from methods.graph.trace import separate_operators
from methods.tables.codebook import codebook_layers, expand_layer, replace_module
from models.errors import UserError, first_line
from models.execution.inputs import Example, Inputs
from models.execution.tensor_leaves import output_leaves, tensor_leaves
from models.networks.shortcut import PadShortcut
from models.settings import setting_name
from search.export.signature import Signature, describe_signature
from search.latency.timing import Forward

BATCH = "batch"
_EXPORTERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._guards", "torch.fx")


def check_onnx(needed_by: str = "format onnx", instead: str | None = None) -> None:
    """UserError that names what to install, if one of the optional packages is missing.

    Args:
        instead: what else would do; by default, to leave the format out.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        choices = ["pip install -e '.[export]'", _leave_out("onnx") if instead is None else instead]
        raise UserError(f"{needed_by} needs {', '.join(missing)}: {', or '.join(filter(None, choices))}")


def _leave_out(formats: str) -> str:
    return f"leave {formats} out of {setting_name('formats', '--format')}"


def plain_network(network: nn.Module) -> nn.Module:
    """A copy on the CPU for evaluation, made of standard layers: shared kernels are written out."""
    twin = copy_network(network).cpu().eval()
    for name, layer in codebook_layers(twin).items():
        replace_module(twin, name, expand_layer(layer))
    for tensor in (*twin.parameters(), *twin.buffers()):  # channels_last strides would end up in the files
        tensor.data = tensor.data.contiguous()
    return twin.requires_grad_(False)


def convolve_shortcuts(network: nn.Module) -> nn.Module:
    """The network with padded shortcuts as convolutions: itself without such, else a copy.

    onnxruntime computes convolutions in a blocked layout, and adds and rectifies in the same kernel. Slices, paddings
    and gathers are not written for that layout, so that all additions behind them would be steps of their own, between
    changes of layout.
    """
    names = [name for name, layer in network.named_modules()
             if isinstance(layer, PadShortcut) and layer.in_channels and layer.out_channels]  # fmt: skip
    if not names:
        return network
    twin = copy_network(network)
    for name in names:
        shortcut = twin.get_submodule(name)
        assert isinstance(shortcut, PadShortcut)
        replace_module(twin, name, shortcut.as_convolution())
    return twin.eval()


def count_flops(network: nn.Module, example: Example, choices: AbstractContextManager[object] | None = None) -> int:
    """Multiply-accumulates for one input as torch's own counter sees them; `network` is in evaluation mode.

    Attention is taken apart: the counter does not know the operators that it is fused into on CPUs.

    Args:
        choices: on during the pass, see `methods.graph.steady_choices`.
    """
    # One alone: what all inputs share, such as position codes, is computed once.
    inputs = Inputs.of(example).first().clone()
    with (
        choices or contextlib.nullcontext(), separate_operators(), sdpa_kernel(SDPBackend.MATH), torch.no_grad(),
        FlopCounterMode(display=False) as counter,
    ):  # fmt: skip
        inputs(network)
    return counter.get_total_flops() // 2  # torch counts a multiply-accumulate as two operations


def capture_program(
    network: nn.Module, example: Example, *, any_batch: bool = True, advice: str | None = None
) -> torch.export.ExportedProgram:
    """The program of a network made of standard layers.

    Args:
        example: two inputs or more; their values end up in the file, so give noise.
        any_batch: for batches of any size, not of one input alone.
        advice: what would do where it cannot be captured; by default, to leave the formats out.

    Raises:
        UserError: torch.export cannot follow the network, or only for one batch size.
    """
    inputs = Inputs.of(example).map(Tensor.contiguous)
    inputs = inputs if any_batch else inputs.first()
    try:
        program = _capture(network, inputs, strict=False, any_batch=any_batch)
    except Exception as error:  # whatever the user's forward pass does that cannot be followed
        try:
            # Reading the code follows some of what running it does not: `len(images)`.
            program = _capture(network, inputs, strict=True, any_batch=any_batch)
        except Exception:
            raise UserError(
                f"torch.export cannot capture this network ({type(error).__name__}: {first_line(error)}); "
                f"{advice or _leave_out('pt2 and onnx')}"
            ) from error
    _forget_places(program)
    return program


def capture_signed(
    network: nn.Module, example: Example, signature: Signature, *, advice: str | None = None
) -> tuple[torch.export.ExportedProgram, Signature]:
    """The program for batches of any size, or for one input where it can be captured for no more, and its signature."""
    try:
        program = capture_program(network, example, any_batch=signature.any_batch, advice=advice)
    except UserError:
        if not signature.any_batch:
            raise
        program = capture_program(network, example, any_batch=False, advice=advice)
        signature = describe_signature(network, Inputs.of(example), any_batch=False)
    return program, signature


def _capture(network: nn.Module, inputs: Inputs, *, strict: bool, any_batch: bool) -> torch.export.ExportedProgram:
    shapes: Any = None
    if any_batch:
        batch = torch.export.Dim(BATCH, min=1)
        args, kwargs = tree_map(lambda is_own: {0: batch} if is_own else None, inputs.batch_dims())
        shapes = dict(inspect.signature(network.forward).bind(*args, **kwargs).arguments)
    with _quiet_exporters(), torch.no_grad():
        return torch.export.export(network, inputs.args, dict(inputs.kwargs), dynamic_shapes=shapes, strict=strict)


class PlainOutputs(nn.Module):
    """A network whose results are tensors by name, for one that returns objects which no file format knows."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network

        def forward(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            return dict(zip(names, tensor_leaves(network(*args, **kwargs)), strict=True))

        # torch.export reads the names of the arguments off it.
        forward.__signature__ = inspect.signature(network.forward)  # type: ignore[attr-defined]
        self.forward = forward


def with_plain_outputs(network: nn.Module, example: Example, names: Sequence[str]) -> nn.Module:
    """The network, wrapped if there is something else than tensors, lists and dictionaries in what it returns."""
    with torch.no_grad():
        outputs = Inputs.of(example).clone()(network)
    return network if all(isinstance(leaf, Tensor) for leaf in tree_leaves(outputs)) else PlainOutputs(network, names)


def _forget_places(program: torch.export.ExportedProgram) -> None:
    """Drop the source lines that made each node: they name folders of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program as a file that torch alone opens.

    By way of the memory: torch's own writer aborts the process when a disk is full (its destructor throws).
    """
    content = io.BytesIO()
    with _quiet_exporters():
        torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def open_pt2(path: Path, device: torch.device | str = "cpu") -> Forward:
    """The program in a file, ready to run on a device."""
    program = torch.export.load(path)
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    module = program.module()

    @torch.inference_mode()
    def run(inputs: Inputs) -> list[Tensor]:
        return output_leaves(inputs(module))

    return run


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, signature: Signature, *, advice: str | None = None
) -> None:
    """Write the program as one ONNX file; UserError, with the advice, for an operator that ONNX does not have."""
    import onnx

    try:
        with _quiet_exporters():
            onnx_program = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[info.name for info in signature.inputs],
                output_names=[info.name for info in signature.outputs],
                external_data=False,
            )
        assert onnx_program is not None
        model: Any = onnx_program.model_proto
    except Exception as error:  # the exporter wraps every fault in a class of its own
        fault: BaseException = error
        while fault.__cause__ is not None:
            fault = fault.__cause__
        raise UserError(
            f"this network cannot be written as ONNX ({type(fault).__name__}: {first_line(fault)}); "
            f"{advice or _leave_out('onnx')}"
        ) from error
    _tidy_onnx(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _tidy_onnx(model: Any) -> None:
    """Name the batch dimension; drop notes on how the exporter arrived at each node."""
    graph = model.graph
    firsts = [value.type.tensor_type.shape.dim[:1] for value in graph.input]
    symbols = {dim.dim_param for dims in firsts for dim in dims}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in symbols:
                dim.dim_param = BATCH
    # The notes name folders and source lines of this machine.
    protos = (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for proto in protos:
        del proto.metadata_props[:]


def open_onnx(path: Path, signature: Signature, threads: int | None = None) -> Forward:
    """The ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors alone: warnings go to standard error past Python's own
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    taken = {info.name for info in session.get_inputs()}  # those that play no part are left out
    names, returned = [info.name for info in signature.inputs], [info.name for info in signature.outputs]

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs.tensors, strict=True) if name in taken}
        return [torch.from_numpy(array) for array in session.run(returned, arrays)]

    return run


@contextlib.contextmanager
def _quiet_exporters() -> Iterator[None]:
    """The exporters' notes are of no use to who exports, and standard output may be JSON."""
    levels = {
        name: logging.getLogger(name).level
        for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._guards", "torch.fx")
    }
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
