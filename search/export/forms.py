"""The deployed forms of one export: written, opened again, timed against the dense network's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from search.export.config import ONNX, PROGRAM
from search.export.formats import (
    capture_program,
    capture_signed,
    convolve_shortcuts,
    open_onnx,
    open_pt2,
    plain_network,
    with_plain_outputs,
    write_onnx,
    write_pt2,
)
from search.export.layer_comparison import LayerTime, compare_layers
from search.export.signature import IMAGES, LOGITS, Signature, describe_signature
from search.export.subject import Say, Subject
from search.latency.timing import BATCHES, Forward, Latency, measure_latency
from search.machine.host import host_facts


def write_forms(network: nn.Module, subject: Subject, stage: Path, formats: tuple[str, ...]) -> Signature:
    """`model.pt2` and `model.onnx` of a network made of standard layers, and what it takes and returns there."""
    example, is_own = subject.example, subject.task.config.task is not None
    signature = describe_signature(network, example, names=None if is_own else (IMAGES, LOGITS))
    if "pt2" not in formats and "onnx" not in formats:
        return signature
    network = with_plain_outputs(network, example, [info.name for info in signature.outputs])
    if is_own:
        program, signature = capture_signed(network, example, signature)
    else:
        program = capture_program(network, example, any_batch=signature.any_batch)
    if "pt2" in formats:
        write_pt2(program, stage / PROGRAM)
    if "onnx" in formats:
        convolved = convolve_shortcuts(network)
        if convolved is not network:
            program = capture_program(convolved, example, any_batch=signature.any_batch)
        write_onnx(program, stage / ONNX, signature)
    return signature


def open_forms(stage: Path, signature: Signature) -> dict[str, Forward]:
    """The forms that were written, as a user would open them."""
    forms: dict[str, Forward] = {}
    if (stage / PROGRAM).is_file():
        forms[PROGRAM] = open_pt2(stage / PROGRAM)
    if (stage / ONNX).is_file():
        forms[ONNX] = open_onnx(stage / ONNX, signature)
    return forms


def measure_latencies(
    subject: Subject, stage: Path, formats: tuple[str, ...], signature: Signature, say: Say
) -> tuple[tuple[Latency, ...], tuple[LayerTime, ...]]:
    """Dense and compressed in the forms that were written, for a single image and for a batch; and layer by layer.

    Layers are timed in the ONNX file alone, for a single image.
    """
    if not {"pt2", "onnx"} & set(formats):
        return (), ()
    say("measuring latency, dense and compressed in turns ...")
    # max: everything may have been removed, and a ratio to no FLOPs at all is of no use to a reader.
    theoretical = subject.compressor.cost.dense.flops / max(subject.cost.flops, 1)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder)
        write_forms(plain_network(subject.task.network), subject, dense, formats)
        latencies = tuple(
            measure_latency(
                dense_run,
                compressed_run,
                subject.inputs.repeat(size).map(Tensor.contiguous).to(device),
                engine=engine,
                device=host_facts(device)["device"],
                threads=torch.get_num_threads(),
                theoretical=theoretical,
            )
            for engine, device, dense_run, compressed_run in _forms_to_time(
                dense, stage, subject.task.device, signature
            )
            for size in (BATCHES if signature.any_batch else BATCHES[:1])
        )
        layers = list[LayerTime]()
        if (stage / ONNX).is_file():
            single = subject.inputs.first().map(Tensor.contiguous)
            layers = compare_layers(dense / ONNX, stage / ONNX, single, signature, torch.get_num_threads())
        return latencies, tuple(layers)


def _forms_to_time(
    dense: Path, compressed: Path, device: torch.device, signature: Signature
) -> list[tuple[str, torch.device, Forward, Forward]]:
    """(engine, device, dense, compressed), for each form that can be measured here.

    onnxruntime runs on the CPU here, so a GPU times the program of torch.export alone.
    """
    cpu, engines = torch.device("cpu"), {PROGRAM: "torch", ONNX: "onnxruntime"}
    dense_forms, compressed_forms = open_forms(dense, signature), open_forms(compressed, signature)
    timed = [(engines[name], cpu, dense_forms[name], compressed_forms[name]) for name in dense_forms]
    if device.type != "cpu" and PROGRAM in dense_forms:
        timed.append(("torch", device, open_pt2(dense / PROGRAM, device), open_pt2(compressed / PROGRAM, device)))
    return timed
