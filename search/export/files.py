"""The files of an export: written, tried on test images, counted and timed."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, Cost
from methods.compose import split_parts
from methods.graph.trace import uncounted_flops
from models.errors import UserError
from models.tasks.pictures import PictureTask
from models.user.code import is_user_spec, split_spec
from search.candidate import Candidate
from search.export.compressed import file_digest, load_compressed
from search.export.config import (
    CARD,
    CONFIG,
    ONNX,
    PICTURE,
    PROGRAM,
    WEIGHTS,
    Costs,
    ExportConfig,
    Inputs,
    Metrics,
    Origin,
    Stored,
    UserFile,
)
from search.export.finished_run import FinishedRun
from search.export.formats import (
    capture_program,
    check_agreement,
    count_flops,
    open_onnx,
    open_pt2,
    output_difference,
    plain_network,
    write_onnx,
    write_pt2,
)
from search.export.model_card import model_card
from search.export.pick import Picked
from search.files.atomic import atomic_write
from search.judge.packed_weights import pack_weights
from search.latency.timing import BATCHES, Forward, Latency, batch_of, measure_latency
from search.machine.host import host_facts
from search.report.centroids import centroids_png

Say = Callable[[str], None]


@dataclass
class Subject:
    """What is exported, loaded."""

    run: FinishedRun
    picked: Picked
    wanted: str
    """The pick as the user wrote it."""
    task: PictureTask
    compressor: Compressor
    candidate: Candidate
    allocation: Allocation
    network: nn.Module
    """Fine-tuned, on the CPU, in evaluation mode."""
    images: Tensor
    """Of the test set, on the CPU."""
    accuracy: float
    """Of `network` on the test set."""

    @property
    def cost(self) -> Cost:
        return self.compressor.cost_of(self.allocation)

    @property
    def example(self) -> Tensor:
        """Noise, as it may end up in files."""
        return self.task.example.cpu()


def write_files(subject: Subject, stage: Path, folder: Path, formats: tuple[str, ...], say: Say) -> ExportConfig:
    """Write the formats asked for and the model card into `stage`; the export is going to lie in `folder`.

    Raises:
        UserError: a form does not compute what the network does, or costs what it should not.
    """
    say(f"writing and trying {', '.join(formats)} ...")
    small = plain_network(subject.network)
    flops = _count_exported_flops(subject, small)
    _write_forms(small, subject.example, stage, formats)
    config = _export_config(subject, flops, _stored_files(stage))
    agreement = {
        name: output_difference(run, subject.network, subject.images) for name, run in _open_forms(stage).items()
    }
    if "safetensors" in formats:
        atomic_write(stage / WEIGHTS, safetensors.torch.save(pack_weights(subject.compressor, subject.network)))
        config = config.model_copy(update={"files": _stored_files(stage)})
        _write_config(stage, config)  # `load_compressed` reads it beside the weights
        agreement[WEIGHTS] = _rebuilt_difference(subject, stage)
    for name, difference in agreement.items():
        check_agreement(name, difference)
    metrics = {"agreement": agreement, "latency": _measure_latencies(subject, stage, formats, say)}
    config = config.model_copy(update={"metrics": config.metrics.model_copy(update=metrics)})
    _write_config(stage, config)
    if "config" not in formats:
        (stage / CONFIG).unlink()
    books = subject.compressor.centroids(subject.network)
    if books:
        atomic_write(stage / PICTURE, centroids_png(books))
    atomic_write(stage / CARD, model_card(config, folder, pictured=bool(books)))
    return config


def _count_exported_flops(subject: Subject, small: nn.Module) -> int:
    """FLOPs of what is exported, by torch's counter; they must be those that the search promised.

    Shared kernels are written out in these forms and cost as much as dense ones. Products of activations with each
    other (attention) are counted here and not promised.
    """
    compressor, example = subject.compressor, subject.example
    counted, promised = count_flops(small, example), subject.cost.flops
    if not compressor.info.shrinks_channels:
        return counted
    # An equal count of the dense network says that it has no operator that torch's counter does not know (LSTMs).
    dense = plain_network(subject.task.network)
    comparable = count_flops(dense, example) - uncounted_flops(dense, example) == compressor.cost.dense.flops
    applied = counted - uncounted_flops(small, example)
    if comparable and applied != promised:
        raise UserError(f"the network to export has {applied:,} FLOPs where its search says {promised:,}; search anew")
    return counted


def _write_forms(network: nn.Module, example: Tensor, stage: Path, formats: tuple[str, ...]) -> None:
    """`model.pt2` and `model.onnx` of a network made of standard layers."""
    if "pt2" not in formats and "onnx" not in formats:
        return
    program = capture_program(network, example)
    if "pt2" in formats:
        write_pt2(program, stage / PROGRAM)
    if "onnx" in formats:
        write_onnx(program, stage / ONNX)


def _open_forms(stage: Path) -> dict[str, Forward]:
    """The forms that were written, as a user would open them."""
    openers: dict[str, Callable[[Path], Forward]] = {PROGRAM: open_pt2, ONNX: open_onnx}
    return {name: opener(stage / name) for name, opener in openers.items() if (stage / name).is_file()}


def _rebuilt_difference(subject: Subject, stage: Path) -> float:
    """How far the network that `load_compressed` gives is from the fine-tuned one."""
    network = load_compressed(stage)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        outputs: Tensor = network(images)
        return outputs

    return output_difference(run, subject.network, subject.images)


def _measure_latencies(subject: Subject, stage: Path, formats: tuple[str, ...], say: Say) -> tuple[Latency, ...]:
    """Dense and compressed in the forms that were written, for a single image and for a batch."""
    if not {"pt2", "onnx"} & set(formats):
        return ()
    say("measuring latency, dense and compressed in turns ...")
    # max: everything may have been removed, and a ratio to no FLOPs at all is of no use to a reader.
    theoretical = subject.compressor.cost.dense.flops / max(subject.cost.flops, 1)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder)
        _write_forms(plain_network(subject.task.network), subject.example, dense, formats)
        return tuple(
            measure_latency(
                dense_run,
                compressed_run,
                batch_of(subject.images, size).to(device),
                engine=engine,
                device=host_facts(device)["device"],
                threads=torch.get_num_threads(),
                theoretical=theoretical,
            )
            for engine, device, dense_run, compressed_run in _forms_to_time(dense, stage, subject.task.device)
            for size in BATCHES
        )


def _forms_to_time(
    dense: Path, compressed: Path, device: torch.device
) -> list[tuple[str, torch.device, Forward, Forward]]:
    """(engine, device, dense, compressed), for each form that can be measured here.

    onnxruntime runs on the CPU here, so a GPU times the program of torch.export alone.
    """
    cpu, engines = torch.device("cpu"), {PROGRAM: "torch", ONNX: "onnxruntime"}
    dense_forms, compressed_forms = _open_forms(dense), _open_forms(compressed)
    timed = [(engines[name], cpu, dense_forms[name], compressed_forms[name]) for name in dense_forms]
    if device.type != "cpu" and PROGRAM in dense_forms:
        timed.append(("torch", device, open_pt2(dense / PROGRAM, device), open_pt2(compressed / PROGRAM, device)))
    return timed


def _stored_files(stage: Path) -> dict[str, Stored]:
    """Sizes and digests of the model's files."""
    paths = [stage / name for name in (WEIGHTS, PROGRAM, ONNX)]
    return {p.name: Stored(bytes=p.stat().st_size, sha256=file_digest(p)) for p in paths if p.is_file()}


def _write_config(stage: Path, config: ExportConfig) -> None:
    atomic_write(stage / CONFIG, config.model_dump_json(indent=2) + "\n")


def _export_config(subject: Subject, flops: int, files: Mapping[str, Stored]) -> ExportConfig:
    task, info = subject.task, subject.task.info
    compressor = subject.compressor
    return ExportConfig(
        task=task.config,
        fingerprint=task.fingerprint,
        inputs=Inputs(
            shape=info.shape,
            classes=info.classes,
            mean=info.mean,
            std=info.std,
            pixel_range=(info.pixels.low, info.pixels.high),
            labels=info.labels,
        ),
        network_file=_user_file(task.config.network),
        method=subject.candidate.method,
        method_files=_method_files(subject),
        options=subject.candidate.options,
        allocation=compressor.allocation(compressor.levels(subject.allocation)),
        cost=Costs(**subject.cost._asdict()),
        dense=Costs(**compressor.cost.dense._asdict()),
        metrics=_test_metrics(subject, flops),
        recipe=subject.candidate.recipe,
        seen=task.seen,
        files=dict(files),
        origin=_candidate_origin(subject),
    )


def _method_files(subject: Subject) -> dict[str, str]:
    """Of the places that the run knows, those of the candidate's method."""
    code = subject.run.config.code
    return {name: code[name] for name in split_parts(subject.candidate.method) if name in code}


def _user_file(network: str) -> UserFile | None:
    if not is_user_spec(network):
        return None
    file, function = split_spec(network, "network")
    return UserFile(path=str(file), function=function, sha256=file_digest(file))


def _test_metrics(subject: Subject, flops: int) -> Metrics:
    seed = subject.candidate.seed
    # A candidate that no search tested (knee, a fine-tune of its own) has the figure of these weights alone.
    tested = {**subject.picked.tested, seed: subject.picked.tested.get(seed, subject.accuracy)}
    accuracies = list(tested.values())
    return Metrics(
        metric=subject.task.metric,
        test_score=subject.accuracy,
        test_inputs=subject.task.count_inputs("test"),
        dense_test_score=subject.task.score(subject.task.network, "test").metrics[subject.task.metric.name],
        seed=seed,
        seeds=tuple(sorted(tested)),
        mean=statistics.fmean(accuracies),
        std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        n=len(accuracies),
        executed_flops=flops,
    )


def _candidate_origin(subject: Subject) -> Origin:
    picked, run = subject.picked, subject.run
    return Origin(
        run=run.folder.name,
        candidate=picked.key,
        pick=subject.wanted,
        strategy=picked.strategy,
        target=picked.target,
        searched=run.searched,
        host=run.host,
    )
