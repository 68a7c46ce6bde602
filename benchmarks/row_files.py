"""Rows of a table of networks, each measured in a process of its own and written as it ends."""

from __future__ import annotations

import csv
import multiprocessing
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def measure_apart(measure: Callable[[str], Row], name: str, limit: float, fault: str = "fault") -> Row:
    """The figures of one network, or under `fault` what went wrong, in a process that ends after `limit` seconds."""
    context = multiprocessing.get_context("fork")  # with everything imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_figures, args=(measure, name, fault, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {fault: f"not ended after {limit:.0f} s"}
        figures: Row = receiver.recv()
        return figures
    except EOFError:
        process.join()
        return {fault: f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _send_figures(measure: Callable[[str], Row], name: str, fault: str, sender: Connection) -> None:
    try:
        figures = measure(name)
    except Exception as error:
        traceback.print_exc()
        figures = {fault: f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    sender.send(figures)


def read_rows(path: Path) -> dict[str, Row]:
    """Network -> its row; none if there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def write_rows(path: Path, columns: Sequence[str], rows: Mapping[str, Row], order: Sequence[str]) -> None:
    """All rows, in the order of their networks' names."""
    position = {name: number for number, name in enumerate(order)}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=lambda row: position[row["network"]]))
