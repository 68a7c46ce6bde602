"""The files of an export: written, tried on test images, counted and timed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from methods.graph.steady_choices import SteadyChoices
from methods.graph.trace import uncounted_flops
from methods.method_names import split_parts
from models.errors import UserError
from models.execution.inputs import Inputs
from models.execution.tensor_leaves import output_leaves
from models.tasks.pictures import PictureTask
from models.user.code import is_user_spec, split_spec
from search.export.agreement import check_agreement, output_difference
from search.export.compressed import file_digest, load_compressed
from search.export.config import (
    CARD,
    CONFIG,
    EXAMPLE,
    ONNX,
    PICTURE,
    PROGRAM,
    WEIGHTS,
    Costs,
    ExportConfig,
    Metrics,
    Origin,
    Pictures,
    Stored,
    UserFile,
)
from search.export.example_file import write_example
from search.export.formats import (
    count_flops,
    plain_network,
)
from search.export.forms import measure_latencies, open_forms, write_forms
from search.export.model_card import model_card
from search.export.signature import Signature
from search.export.subject import Say, Subject
from search.files.atomic import atomic_write
from search.judge.packed_weights import pack_weights
from search.recipe import Recipe
from search.report.centroids import centroids_png


def write_files(subject: Subject, stage: Path, folder: Path, formats: tuple[str, ...], say: Say) -> ExportConfig:
    """Write the formats asked for and the model card into `stage`; the export is going to lie in `folder`.

    Raises:
        UserError: a form does not compute what the network does, or costs what it should not.
    """
    say(f"writing and trying {', '.join(formats)} ...")
    small = plain_network(subject.network)
    flops = _count_exported_flops(subject, small)
    signature = write_forms(small, subject, stage, formats)
    config = _export_config(subject, flops, _stored_files(stage), signature)
    agreement = {
        name: output_difference(run, subject.network, subject.inputs, any_batch=signature.any_batch)
        for name, run in open_forms(stage, signature).items()
    }
    if "safetensors" in formats:
        atomic_write(stage / WEIGHTS, safetensors.torch.save(pack_weights(subject.compressor, subject.network)))
        if subject.task.config.task is not None:
            write_example(subject.example, stage / EXAMPLE)
        config = config.model_copy(update={"files": _stored_files(stage)})
        _write_config(stage, config)  # `load_compressed` reads it beside the weights
        agreement[WEIGHTS] = _rebuilt_difference(subject, stage)
    for name, difference in agreement.items():
        check_agreement(name, difference)
    latencies, layers = measure_latencies(subject, stage, formats, signature, say)
    metrics = {"agreement": agreement, "latency": latencies, "layers": layers}
    config = config.model_copy(update={"metrics": config.metrics.model_copy(update=metrics)})
    _write_config(stage, config)
    if "config" not in formats:
        (stage / CONFIG).unlink()
    books = subject.compressor.centroids(subject.network)
    if books:
        atomic_write(stage / PICTURE, centroids_png(books))
    atomic_write(stage / CARD, model_card(config, folder, pictured=bool(books), gains=subject.compressor.info.gains))
    return config


def _count_exported_flops(subject: Subject, small: nn.Module) -> int:
    """FLOPs of what is exported, by torch's counter; they must be those that the search promised.

    Shared kernels are written out in these forms and cost as much as dense ones. Products of activations with each
    other (attention) are counted here and not promised.
    """
    compressor, example, choices = subject.compressor, subject.example, SteadyChoices()
    if not compressor.info.plain_layers:
        return count_flops(small, example)
    # An equal count of the dense network says that it has no operator that torch's counter does not know (LSTMs).
    dense = plain_network(subject.task.network)
    dense_flops = count_flops(dense, example, choices)
    comparable = dense_flops - uncounted_flops(dense, example) == compressor.cost.dense.flops
    # With the dense network's choices: the search promises the cost of as many regions.
    counted, promised = count_flops(small, example, choices.repeat_regions()), subject.cost.flops
    applied = counted - uncounted_flops(small, example)
    if comparable and applied != promised:
        raise UserError(f"the network to export has {applied:,} FLOPs where its search says {promised:,}; search anew")
    return counted


def _rebuilt_difference(subject: Subject, stage: Path) -> float:
    """How far the network that `load_compressed` gives is from the fine-tuned one."""
    network = load_compressed(stage)

    @torch.no_grad()
    def run(inputs: Inputs) -> list[Tensor]:
        return output_leaves(inputs.clone()(network))

    return output_difference(run, subject.network, subject.inputs)


def _stored_files(stage: Path) -> dict[str, Stored]:
    """Sizes and digests of the model's files."""
    paths = [stage / name for name in (WEIGHTS, PROGRAM, ONNX, EXAMPLE)]
    return {p.name: Stored(bytes=p.stat().st_size, sha256=file_digest(p)) for p in paths if p.is_file()}


def _write_config(stage: Path, config: ExportConfig) -> None:
    atomic_write(stage / CONFIG, config.model_dump_json(indent=2) + "\n")


def _export_config(subject: Subject, flops: int, files: Mapping[str, Stored], signature: Signature) -> ExportConfig:
    task, compressor = subject.task, subject.compressor
    return ExportConfig(
        task=task.config,
        fingerprint=task.fingerprint,
        inputs=_describe_pictures(task) if isinstance(task, PictureTask) else None,
        signature=None if isinstance(task, PictureTask) else signature,
        network_file=_user_file(task.config.network),
        method=subject.candidate.method,
        method_files=_method_files(subject),
        options=subject.candidate.options,
        allocation=compressor.allocation(compressor.levels(subject.allocation)),
        cost=Costs(**subject.cost._asdict()),
        dense=Costs(**compressor.cost.dense._asdict()),
        metrics=_test_metrics(subject, flops),
        recipe=_applied_recipe(subject),
        seen=task.seen,
        files=dict(files),
        origin=_candidate_origin(subject),
    )


def _describe_pictures(task: PictureTask) -> Pictures:
    info = task.info
    return Pictures(
        shape=info.shape,
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        pixel_range=(info.pixels.low, info.pixels.high),
        labels=info.labels,
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


def _applied_recipe(subject: Subject) -> Recipe:
    """The candidate's; a task without outputs has nothing to distil."""
    recipe = subject.candidate.recipe
    return recipe if subject.task.objective.has_outputs else recipe.model_copy(update={"distill_weight": 0.0})


def _test_metrics(subject: Subject, flops: int) -> Metrics:
    seed = subject.candidate.seed
    # A candidate that no search tested (knee, a fine-tune of its own) has the figure of these weights alone.
    tested = {**subject.picked.tested, seed: subject.picked.tested.get(seed, subject.score)}
    scores = list(tested.values())
    return Metrics(
        metric=subject.task.metric,
        test_score=subject.score,
        test_inputs=subject.task.count_inputs("test"),
        dense_test_score=subject.task.score(subject.task.network, "test").metrics[subject.task.metric.name],
        seed=seed,
        seeds=tuple(sorted(tested)),
        mean=statistics.fmean(scores),
        std=statistics.stdev(scores) if len(scores) > 1 else None,
        n=len(scores),
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
