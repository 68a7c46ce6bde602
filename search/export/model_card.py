"""The page that travels with an export: what it is, how good, what it costs, how it was found, how to load it."""

from __future__ import annotations

from pathlib import Path

from models.tasks.metric import ACCURACY
from models.user.spec_names import OBJECT_PREFIX, class_of, data_name, network_name, task_name
from models.wording import plural
from search.export.config import EXAMPLE, ONNX, PICTURE, PROGRAM, WEIGHTS, ExportConfig, Pictures
from search.export.layer_comparison import holding_back_sentence, layer_rows
from search.export.signature import IMAGES, LOGITS, Signature
from search.latency.timing import Latency
from search.results.markup import escape_markdown, markdown_code

_CENTROIDS = (
    "## Centroids\n\nThe kernels that each codebook holds, most used first, and how many of the network's kernels use "
    f"each.\n\n![centroids]({PICTURE})"
)
_LABELS = 20  # named on the card
_SETTINGS = 24  # sites shown; the rest is in config.json


def model_card(config: ExportConfig, folder: Path, *, pictured: bool = False, gains: str = "") -> str:
    """`README.md` of the export in `folder`, in Markdown.

    Args:
        pictured: its centroids lie there as a picture.
        gains: what the method's networks gain, and on which runtime.
    """
    sections = [
        _title_section(config),
        _score_section(config),
        _cost_section(config) + (f"\n\nThe method gains {escape_markdown(gains)}." if gains else ""),
        _files_section(config),
        _latency_section(config),
    ]
    sections += [_CENTROIDS if pictured else "", _origin_section(config), _loading_section(config, folder)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _title_section(config: ExportConfig) -> str:
    network, data = markdown_code(network_name(config.task.network)), markdown_code(data_name(config.task.data))
    title = escape_markdown(_short_network_name(config.task.network))
    kept = f"{config.cost.flops / config.dense.flops:.1%} of its FLOPs"
    head = f"# {title}, compressed by {escape_markdown(config.method)}\n\n"
    if config.inputs is None:
        task = markdown_code(task_name(config.task.network))
        return f"{head}The network of {task}, {kept}.{_signature_text(config.signature)}"
    return f"{head}{network} for {data}, {kept}. {_pictures_text(config.inputs)}"


def _pictures_text(pictures: Pictures) -> str:
    shape, (low, high) = ", ".join(map(str, pictures.shape)), pictures.pixel_range
    outputs = f", in the order of the labels {_label_list(pictures.labels)}" if pictures.labels else ""
    return (
        f"It takes float32 images (N, {shape}), scaled from [{low:g}, {high:g}] to [0, 1] and normalised with mean "
        f"{_number_list(pictures.mean)} and std {_number_list(pictures.std)} per channel, and returns "
        f"{pictures.classes} logits each{outputs}."
    )


def _signature_text(signature: Signature | None) -> str:
    """A table of the tensors that go in and come out."""
    if signature is None:
        return ""
    rows = [
        f"| {kind} | {markdown_code(info.name, in_table=True)} | {info} |"
        for kind, infos in (("takes", signature.inputs), ("returns", signature.outputs))
        for info in infos
    ]
    batch = "N: any number of inputs, or a size that they decide." if signature.any_batch else "One input at a time."
    return "\n\n" + "\n".join(["| | tensor | |\n| --- | --- | --- |", *rows]) + f"\n\n{batch}"


def _kind_of_inputs(config: ExportConfig) -> str:
    return "inputs" if config.inputs is None else "images"


def _label_list(labels: tuple[int | str, ...]) -> str:
    """The first of them as code, so that no name is taken for Markdown; all are in `config.json`."""
    shown = ", ".join(f"`{str(label).replace('`', ' ')}`" for label in labels[:_LABELS])
    return shown if len(labels) <= _LABELS else f"{shown}, ... (all {len(labels)} are in `config.json`)"


def _score_section(config: ExportConfig) -> str:
    metrics, metric = config.metrics, config.metrics.metric
    title, subject = "Accuracy", f"top-1 on {metrics.test_inputs:,} test images"
    if metric != ACCURACY:
        title, inputs = metric.name, f" on {metrics.test_inputs:,} test inputs" if metrics.test_inputs else ""
        subject = f"{metric}{inputs}"
    table_lines = [
        f"| {escape_markdown(subject)} | |\n| --- | ---: |",
        f"| dense | {metric.value_text(metrics.dense_test_score)} |",
        f"| these weights (seed {metrics.seed}) | {metric.value_text(metrics.test_score)} |",
        f"| mean of {plural(metrics.n, 'seed')} | {metric.mean_text(metrics.mean, metrics.std)} |",
        f"| change, mean against dense | {metric.change_text(metrics.mean - metrics.dense_test_score)} |",
    ]
    return f"## {escape_markdown(title)}\n\n" + "\n".join(table_lines)


def _cost_section(config: ExportConfig) -> str:
    table_lines = []
    for what in ("flops", "params", "bytes"):
        dense, small = getattr(config.dense, what), getattr(config.cost, what)
        title = {"flops": "FLOPs", "params": "parameters", "bytes": "bytes of parameters"}[what]
        table_lines.append(f"| {title} | {dense:,} | {small:,} | {dense / max(small, 1):.2f}× |")
    head = "| for one input | dense | compressed | |\n| --- | ---: | ---: | ---: |"
    text = "\n".join(["## Cost\n", head, *table_lines])
    text += "\n\nOne multiply-accumulate of a convolution or linear layer is one FLOP."
    # Methods of codebooks compute each distinct kernel once, which an ordinary convolution cannot; and attention
    # multiplies activations with each other, which no method compresses.
    if config.metrics.executed_flops != config.cost.flops:
        text += (
            f" The FLOPs above count each distinct kernel once, and no products of activations with each other "
            f"(attention); `{PROGRAM}` and `{ONNX}` execute {config.metrics.executed_flops:,}, with both."
        )
    return text


def _files_section(config: ExportConfig) -> str:
    if not config.files:
        return ""
    what = {
        WEIGHTS: "packed weights",
        PROGRAM: "torch.export program",
        ONNX: "ONNX",
        EXAMPLE: "example of its inputs",
    }
    table_lines = []
    for name, stored in config.files.items():
        difference = config.metrics.agreement.get(name)
        tried = "" if difference is None else f"{difference:.1e}"
        table_lines.append(f"| `{name}` | {what[name]} | {stored.bytes:,} | {tried} |")
    head = "| file | | bytes | largest difference |\n| --- | --- | ---: | ---: |"
    return (
        "\n".join(["## Files\n", head, *table_lines]) + "\n\n"
        f"The difference is to the fine-tuned network's outputs on test {_kind_of_inputs(config)}, over the largest of "
        "them."
    )


def _latency_section(config: ExportConfig) -> str:
    timed = config.metrics.latency
    if not timed:
        return ""
    table_lines = []
    for latency in timed:
        dense = time_text(latency.dense_ms, latency.dense_spread_ms)
        small = time_text(latency.compressed_ms, latency.compressed_spread_ms)
        where = f"{latency.device}, {plural(latency.threads, 'thread')}"
        speed_up = f"{latency.speed_up:.2f}× | {latency.theoretical:.2f}× | {latency.share_of_theory:.2f}"
        table_lines.append(
            f"| {latency.engine} | {escape_markdown(where)} | {latency.batch} | {dense} | {small} | {speed_up} |"
        )
    head = "| engine | device | batch | dense ms | compressed ms | measured | by FLOPs | of it |\n"
    head += "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    return (
        "\n".join(["## Latency\n", head, *table_lines]) + "\n\n"
        "Median over rounds in which both took turns, ± the distance between quartiles.\n" + shortfall_sentence(timed)
    ).rstrip() + _layers_part(config)


def _layers_part(config: ExportConfig) -> str:
    """Every layer's time in onnxruntime, dense beside compressed."""
    layers, theoretical = config.metrics.layers, config.dense.flops / max(config.cost.flops, 1)
    if not layers:
        return ""
    rows = layer_rows(layers)
    lines = [f"| {' | '.join(rows[0])} |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {' | '.join(escape_markdown(text) for text in row.values())} |" for row in rows]
    sentence = escape_markdown(holding_back_sentence(layers, theoretical))
    return f"\n\nLayer by layer in onnxruntime, one input at a time. {sentence}\n\n" + "\n".join(lines)


def time_text(median: float, spread: float) -> str:
    """Milliseconds to three digits, and to one digit how far they spread; never with an exponent."""
    return f"{_rounded_text(median, 3)} ± {_rounded_text(spread, 1)}"


def _rounded_text(value: float, count: int) -> str:
    return f"{value:.{count}g}" if 1e-4 <= value < 10**count else f"{value:.0f}"


def shortfall_sentence(timed: tuple[Latency, ...]) -> str:
    """A sentence on where the real speed-up is far below the theoretical one; empty if it is nowhere."""
    # Small layers are bound by memory and by the cost of starting each operator, so fewer FLOPs need not be faster.
    short = [latency for latency in timed if latency.far_below]
    if not short:
        return ""
    where = ", ".join(
        f"{latency.engine} on {latency.device.split(' ')[0]} at batch {latency.batch}" for latency in short
    )
    where = "every form measured" if len(short) == len(timed) else where
    return f"The real speed-up is far below what the FLOPs promise for {where}: less than half of the gain arrived."


def _origin_section(config: ExportConfig) -> str:
    origin, recipe = config.origin, config.recipe
    batch = f", batch {recipe.batch_size}" if config.task.task is None else ""  # a task draws its own batches
    distil = ""
    if recipe.distill_weight:
        features = f", of features {recipe.distill_features:g}" if recipe.follows_features else ""
        distil = f", distilled from the dense network (weight {recipe.distill_weight:g}{features})"
    run, pick, strategy, target = map(markdown_code, (origin.run, origin.pick, origin.strategy, str(origin.target)))
    text = (
        f"## How it was found\n\nRun {run}, candidate `{origin.candidate[:8]}`, picked as {pick}, "
        f"after {plural(origin.searched, 'candidate')} had been ranked on {_kind_of_inputs(config)} held out from the "
        f"training set; strategy {strategy}, target {target}. Fine-tuned for {plural(recipe.epochs, 'epoch')}{distil}: "
        f"SGD{batch}, {recipe.schedule} at {recipe.lr:g}, weight decay {recipe.weight_decay:g}."
    )
    if config.seen:
        text += f" The dense weights may have been trained on the {_kind_of_inputs(config)} that ranked candidates."
    settings = config.allocation
    table_lines = [
        f"| {markdown_code(site, in_table=True)} | {escape_markdown(repr(settings[site]))} |"
        for site in list(settings)[:_SETTINGS]
    ]
    more = len(settings) - _SETTINGS
    rest = f"\n\n{more} more sites are in `config.json`." if more > 0 else ""
    return text + "\n\n| site | setting |\n| --- | --- |\n" + "\n".join(table_lines) + rest


def _loading_section(config: ExportConfig, folder: Path) -> str:
    signature, blocks = config.signature, []
    taken, returned, fed, only = IMAGES, LOGITS, f'"{IMAGES}": {IMAGES}', "[0]"
    if signature is not None:
        names = [info.name for info in signature.inputs]
        taken = ", ".join(argument if argument in signature.positional else f"{argument}={argument}" for argument in (
            *signature.positional, *signature.keywords))  # fmt: skip
        fed = ", ".join(f'"{name}": {name}' for name in names)
        returned, only = "outputs", ""
    if WEIGHTS in config.files:
        blocks.append(
            "With ratio-search, to train on:\n\n```python\nfrom search.export.compressed import load_compressed\n\n"
            f"network = load_compressed({str(folder)!r})\n```"
        )
    if PROGRAM in config.files:
        blocks.append(
            "With torch alone:\n\n```python\nimport torch\n\n"
            f'{returned} = torch.export.load("{PROGRAM}").module()({taken})\n```'
        )
    if ONNX in config.files:
        blocks.append(
            "With onnxruntime alone:\n\n```python\nimport onnxruntime\n\n"
            f'{returned} = onnxruntime.InferenceSession("{ONNX}").run(None, {{{fed}}}){only}\n```'
        )
    return "## How to load it\n\n" + "\n\n".join(blocks) if blocks else ""


def _short_network_name(network: str) -> str:
    """A network's name, its function's in a user's file, or an object's class."""
    if network.startswith(OBJECT_PREFIX):
        return class_of(network)
    return network.rsplit(":", 1)[-1].rsplit("/", 1)[-1]


def _number_list(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
