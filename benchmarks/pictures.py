"""Pictures of benchmarks: test accuracy against kept FLOPs, a line with its spread for each thing compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_accuracies(panel: Axes, label: str, kept: pd.Series, mean: pd.Series, std: pd.Series, **look: Any) -> None:
    """One line; accuracies are shares. A single seed has no spread. `look`: as for matplotlib's lines."""
    panel.errorbar(kept, 100 * mean, yerr=100 * std.fillna(0), marker="o", capsize=3, label=label, **look)
    panel.set(xlabel="kept FLOPs", ylabel="test accuracy, %")
    panel.grid(visible=True, alpha=0.3)


def save_picture(figure: Figure, path: Path) -> None:
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
