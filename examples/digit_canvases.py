"""Canvases with handwritten digits, for detection and segmentation: scikit-learn's digits, enlarged and strewn about.

Digits of the training, search and test canvases are different ones, so what is measured is no memory of them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

CLASSES = 10
SOURCES = {"train": slice(0, 1100), "search": slice(1100, 1450), "test": slice(1450, 1797)}  # of the 1,797 digits


@dataclass
class Canvas:
    """One picture and all that is known of it."""

    picture: Tensor  # (1, size, size), from 0 to about 1
    boxes: Tensor  # (n_digits, 4): left, top, right, bottom in pixels
    labels: Tensor  # (n_digits,), from 0 to 9
    mask: Tensor  # (size, size): 0 where there is no ink, else 1 + the digit


class DigitCanvases(Dataset[Canvas]):
    """So many square canvases of one to four digits, which stand apart, on noise."""

    def __init__(self, split: Literal["train", "search", "test"], count: int, size: int) -> None:
        digits = load_digits()
        pictures = torch.tensor(digits.images[SOURCES[split]] / 16, dtype=torch.float32)
        labels = torch.tensor(digits.target[SOURCES[split]])
        generator = torch.Generator().manual_seed(0)
        self.canvases = [draw_canvas(pictures, labels, size, generator) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.canvases)

    def __getitem__(self, index: int) -> Canvas:
        return self.canvases[index]


def draw_canvas(pictures: Tensor, labels: Tensor, size: int, generator: torch.Generator) -> Canvas:
    """A canvas of randomly chosen digits; one that would cover another is left out."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    ink, mask = torch.zeros(size, size), torch.zeros(size, size, dtype=torch.long)
    taken, boxes, chosen = torch.zeros(size, size, dtype=torch.bool), [], []
    for _ in range(draw(1, 5)):
        width, index = draw(size // 4, 3 * size // 8 + 1), draw(0, len(pictures))
        left, top = draw(0, size - width + 1), draw(0, size - width + 1)
        place = slice(top, top + width), slice(left, left + width)
        if taken[place].any():
            continue
        digit = functional.interpolate(pictures[None, None, index], size=(width, width), mode="bilinear")[0, 0]
        ink[place], mask[place] = digit, (digit > 0.4) * (1 + labels[index])
        taken[place] = True
        (first_row, last_row), (first_column, last_column) = (inked.aminmax() for inked in (digit > 0.2).nonzero().T)
        boxes.append([left + first_column, top + first_row, left + last_column + 1, top + last_row + 1])
        chosen.append(int(labels[index]))
    noise = 0.15 * torch.randn(size, size, generator=generator)
    return Canvas((ink + noise)[None], torch.tensor(boxes, dtype=torch.float32), torch.tensor(chosen), mask)
