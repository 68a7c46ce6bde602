"""An export on the command line: progress, what was made, how to go on after an interruption."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from models.wording import plural
from search.allocation.targets import flops_text
from search.export.config import CARD, CONFIG, PICTURE, WEIGHTS
from search.export.export import Exported
from search.export.layer_comparison import holding_back_sentence
from search.export.model_card import shortfall_sentence, time_text
from search.latency.timing import Latency
from search.terminal.console import print_line

LINES = 10  # of progress where a bar cannot be drawn


class ExportBar:
    """A bar for a fine-tune, drawn from its first step on; a line now and then where nothing can be redrawn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("fine-tune"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=console)
        self._task: TaskID | None = None
        self._line = 0

    def __enter__(self) -> ExportBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:  # else rich would end a bar that was never drawn by an empty line
            self._bar.stop()

    def __call__(self, done: int, steps: int) -> None:
        if not self._console.is_terminal:
            # One line for every tenth of the steps.
            if done * LINES // steps > self._line:
                self._line = done * LINES // steps
                print_line(self._console, f"fine-tune {done}/{steps} steps")
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("fine-tune", total=steps)
        self._bar.update(self._task, completed=done)
        if done == steps:
            self._bar.stop()


def show_export(exported: Exported, console: Console) -> None:
    """What was made: files, latencies, costs and accuracy."""
    config, metrics = exported.config, exported.config.metrics
    console.print(_files_table(exported))
    if metrics.latency:
        console.print(_latency_table(metrics.latency))
    dense, cost = config.dense, config.cost
    metric = metrics.metric
    for text in (
        f"FLOPs     {flops_text(dense.flops)} -> {flops_text(cost.flops)}, kept {cost.flops / dense.flops:.4f}; "
        f"params {dense.params:,} -> {cost.params:,}; bytes {dense.bytes:,} -> {cost.bytes:,}",
        f"{metric.name:8}  {metric.value_text(metrics.test_score)} on the test set, "
        f"dense {metric.value_text(metrics.dense_test_score)}; "
        f"{metric.mean_text(metrics.mean, metrics.std)} over {plural(metrics.n, 'seed')}",
        *([f"note      {shortfall_sentence(metrics.latency)}"] if shortfall_sentence(metrics.latency) else []),
        *([f"layers    {slow}"] if (slow := _slow_layers(exported)) else []),
    ):
        print_line(console, text)
    if all((exported.folder / name).exists() for name in (CONFIG, WEIGHTS)):
        call = f"network = load_compressed({str(exported.folder)!r})"
        print_line(console, f"load      from search.api import load_compressed; {call}")


def _slow_layers(exported: Exported) -> str:
    config = exported.config
    return holding_back_sentence(config.metrics.layers, config.dense.flops / max(config.cost.flops, 1))


def _files_table(exported: Exported) -> Table:
    table = Table(title=str(exported.folder), title_justify="left", box=None, pad_edge=False)
    for column in ("file", "bytes", "largest difference"):
        table.add_column(column, justify="left" if column == "file" else "right")
    agreement = exported.config.metrics.agreement
    names = [*exported.config.files, PICTURE, CARD, CONFIG]
    for path in (exported.folder / name for name in names):
        if path.is_file():
            difference = agreement.get(path.name)
            table.add_row(
                Text(path.name), f"{path.stat().st_size:,}", "" if difference is None else f"{difference:.1e}"
            )
    return table


def _latency_table(timed: tuple[Latency, ...]) -> Table:
    devices = ", ".join(dict.fromkeys(latency.device for latency in timed))
    threads = plural(timed[0].threads, "thread")
    title = f"Latency in ms, median ± quartile distance; {devices}, {threads}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("engine", "batch", "dense", "compressed", "measured", "by FLOPs", "of it"):
        table.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    for latency in timed:
        table.add_row(
            f"{latency.engine} on {latency.device.split(' ')[0]}",
            str(latency.batch),
            time_text(latency.dense_ms, latency.dense_spread_ms),
            time_text(latency.compressed_ms, latency.compressed_spread_ms),
            f"{latency.speed_up:.2f}×",
            f"{latency.theoretical:.2f}×",
            f"{latency.share_of_theory:.2f}",
        )
    return table
