"""The options of scripts that work on a network, its weights and a data set, and the table that they print."""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd

from models.task_config import TaskConfig


def task_parser(description: str | None, weights: str = "trained weights of the network") -> argparse.ArgumentParser:
    """A parser that knows the options of a task already; `weights` says what is wanted of them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help=weights)
    parser.add_argument("--data", required=True, help="as for run_search.py")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--mean", default="0.485,0.456,0.406")
    parser.add_argument("--std", default="0.229,0.224,0.225")
    return parser


def task_of(arguments: argparse.Namespace, **fields: Any) -> TaskConfig:
    """The task that these options name."""
    mean, std = (tuple(map(float, text.split(","))) for text in (arguments.mean, arguments.std))
    return TaskConfig(
        network=arguments.network, weights=arguments.weights, data=arguments.data, mean=mean, std=std, **fields
    )


def markdown_table(frame: pd.DataFrame) -> str:
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.fillna("").astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
