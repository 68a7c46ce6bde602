"""The centroids of kernel clustering as a picture: most used first, each with the number of kernels that use it.

One block of tiles per codebook, all on one scale: blue is negative, red positive, white zero.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from methods.base import Centroids
from models.errors import printable_text
from models.wording import plural
from search.results.figure_text import shorten_middle

COLUMNS = 16
TILES = 128  # shown of all codebooks together, in whole rows; at least one row of each
BOOKS = 24  # shown at most
GAP = 1.6  # between tiles downwards, in kernels' rows: room for a count


def centroids_png(books: Sequence[Centroids]) -> bytes:
    """`draw_centroids` as a PNG."""
    buffer = io.BytesIO()
    draw_centroids(books).savefig(buffer, format="png")
    return buffer.getvalue()


def draw_centroids(books: Sequence[Centroids]) -> Figure:
    """A block of tiles per codebook, in the network's order, at most `BOOKS` of them; at least one codebook."""
    shown = books[:BOOKS]
    # Every codebook has the same share of the tiles; one with few centroids needs less.
    share = max(1, TILES // COLUMNS // len(shown))
    heights = [min(share, -(-len(book.counts) // COLUMNS)) for book in shown]
    inches = 0.5 + sum(0.72 * height + 0.35 for height in heights)  # tiles of about 0.6 inches, and a title each
    figure = Figure(figsize=(10, inches), dpi=120, layout="constrained")
    blocks = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    limit = max(float(book.kernels.abs().max()) for book in shown) or 1.0
    for axes, book, height in zip(blocks, shown, heights, strict=True):
        _draw_book(axes, book, COLUMNS * height, limit)
    hidden = len(books) - len(shown)
    if hidden:
        figure.supxlabel(f"and {plural(hidden, 'more codebook')}", fontsize=9, color="#5d666f")
    return figure


def _draw_book(axes: Axes, book: Centroids, tiles: int, limit: float) -> None:
    kernels = book.kernels[:tiles].detach().float().cpu().numpy()
    counts = [int(count) for count in book.counts[:tiles].tolist()]
    height, width = kernels.shape[1:]
    for number, (kernel, count) in enumerate(zip(kernels, counts, strict=True)):
        from_top, from_left = divmod(number, COLUMNS)
        x, top = from_left * (width + 1), from_top * (height + GAP)
        _draw_tile(axes, kernel, x, top, limit)
        axes.text(x + width / 2, top + height + 0.15, f"{count:,}", ha="center", va="top", fontsize=6.5)
    axes.set_xlim(-0.2, COLUMNS * (width + 1) - 0.8)
    axes.set_ylim((-(-len(counts) // COLUMNS)) * (height + GAP), -0.2)  # downwards
    axes.set_aspect("equal")
    axes.set_axis_off()
    title = axes.set_title(_describe_book(book, len(counts)), loc="left", fontsize=9)
    title.set_parse_math(False)


def _draw_tile(axes: Axes, kernel: npt.NDArray[np.float32], x: float, top: float, limit: float) -> None:
    """A kernel (Kh, Kw) with its upper left corner at (x, top), and a thin frame, as white tiles have no edge."""
    height, width = kernel.shape
    extent = (x, x + width, top + height, top)
    axes.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest")
    axes.plot([x, x + width, x + width, x, x], [top, top, top + height, top + height, top],
              color="#808a93", linewidth=0.4)  # fmt: skip


def _describe_book(book: Centroids, shown: int) -> str:
    """Name, how many centroids and kernels, and what share of the kernels the tiles shown stand for."""
    total = int(book.counts.sum())
    text = f"{shorten_middle(printable_text(book.name), 60)}: {len(book.counts):,} centroids, {total:,} kernels"
    if shown < len(book.counts) and total:
        text += f"; the {shown} most used, {float(book.counts[:shown].sum()) / total:.0%} of the kernels"
    return text
