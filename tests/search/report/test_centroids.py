"""The picture of centroids: what is drawn is read back from it."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from fake_run import HOSTILE, fake_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from methods.base import Centroids
from search.report.centroids import BOOKS, COLUMNS, centroids_png, draw_centroids
from search.report.page import report_html


def book(name: str, k: int, shape: tuple[int, int] = (3, 3)) -> Centroids:
    generator = torch.Generator().manual_seed(k)
    return Centroids(name, torch.randn(k, *shape, generator=generator), torch.arange(1000 + k, 1000, -1))


def tiles(figure: Figure, block: int) -> list[tuple[np.ndarray, str]]:
    """Kernel and caption of every tile, in reading order of where they lie on the picture."""
    axes = figure.axes[block]
    FigureCanvasAgg(figure).draw()
    images = sorted(axes.images, key=lambda image: (image.get_extent()[3], image.get_extent()[0]))
    texts = sorted(axes.texts, key=lambda text: (text.get_position()[1], text.get_position()[0]))
    for image, text in zip(images, texts, strict=True):
        left, right, bottom, top = image.get_extent()
        x, y = text.get_position()
        assert left < x < right
        assert top < bottom <= y < bottom + 1  # the axis points downwards: the caption stands just below its tile
        assert image.get_clim()[0] == -image.get_clim()[1]
    return [(np.asarray(image.get_array()), text.get_text()) for image, text in zip(images, texts, strict=True)]


@pytest.mark.parametrize("shape", [(3, 3), (1, 7)])
def test_tiles_show_the_centroids_in_order_with_their_counts(shape: tuple[int, int]) -> None:
    books = [book("first", 5, shape), book("second", 40, shape)]
    figure = draw_centroids(books)
    for block, each in enumerate(books):
        drawn = tiles(figure, block)
        assert 0 < len(drawn) <= len(each.counts)
        for (kernel, caption), expected, count in zip(drawn, each.kernels, each.counts, strict=False):
            assert np.array_equal(kernel, expected.numpy())
            assert caption == f"{int(count):,}"
        assert figure.axes[block].get_title(loc="left").startswith(f"{each.name}: {len(each.counts)} centroids")
    limits = {image.get_clim() for axes in figure.axes for image in axes.images}
    highest = max(float(each.kernels.abs().max()) for each in books)
    assert limits == {(-highest, highest)}  # one scale for all
    assert len(tiles(figure, 0)) == 5


def test_what_is_left_out_is_said() -> None:
    one = book("network", 600)
    figure = draw_centroids([one])
    drawn = tiles(figure, 0)
    assert len(drawn) % COLUMNS == 0
    assert len(drawn) < 600
    share = int(one.counts[: len(drawn)].sum()) / int(one.counts.sum())
    assert f"the {len(drawn)} most used, {share:.0%} of the kernels" in figure.axes[0].get_title(loc="left")
    many = draw_centroids([book(f"layer{i}", 3) for i in range(BOOKS + 2)])
    assert len(many.axes) == BOOKS
    assert many.get_supxlabel() == "and 2 more codebooks"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_empty_and_hostile_codebooks_are_drawn() -> None:
    books = [Centroids(name, torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.long)) for name in HOSTILE]
    image = Image.open(io.BytesIO(centroids_png(books)))
    image.load()
    assert image.format == "PNG"
    assert image.width == 1200


def test_the_report_shows_the_picture_of_each_answer_and_nothing_without_centroids() -> None:
    run = fake_run()
    first, second = run.tables.finals["candidate"][:2]
    books = [book("layer1.conv", 4)]
    page = report_html(fake_run(centroids={first: books, second: []}))
    pictures = re.findall(r'<img class="centroids" alt="([^"]+)" src="data:image/png;base64,([^"]+)">', page)
    assert [base64.b64decode(data) for _, data in pictures] == [centroids_png(books)]
    assert "most used first" in pictures[0][0]
    assert 'href="#centroids"' in page
    assert f"<h3>{first}: " in page
    assert 'href="#centroids"' not in report_html(run)
