"""What the command line shows of a kit."""

from __future__ import annotations

from rich.console import Console

from models.wording import plural
from search.kit.make_kit import Kit
from search.settings.shell import path_argument, shell_word
from search.terminal.console import print_line


def show_kit(kit: Kit, console: Console) -> None:
    """Where a kit is, and what is done with it next; or the steps that were found on this machine."""
    files = plural(len(kit.record["files"]), "file")
    place = shell_word(path_argument(kit.folder))
    print_line(
        console, f"kit       {kit.folder}: {files} for {kit.record['network']}, {', '.join(kit.record['methods'])}"
    )
    if kit.table is None:
        print_line(console, f"measure   copy {place} to the device and run there: {kit.command}")
        print_line(console, "then      give the table.json that it writes to plan, search or compare: --latency-table")
        return
    steps, path = kit.table.steps, shell_word(path_argument(kit.table.path))
    print_line(console, f"device    {kit.table.name}: {kit.table.where_text}")
    print_line(
        console,
        f"steps     {plural(steps.inputs.step, 'channel')} in, {steps.outputs.step} out; slow beyond multiples of "
        f"{steps.inputs.align} in, {steps.outputs.align} out",
    )
    print_line(console, f"then      --latency-table {path} in plan, search or compare")
