"""How a network is trained: the settings of a fine-tune, and their values where a dense network is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from models.settings import MOST_BATCH, MOST_EPOCHS, MOST_IMAGES, Option, Settings


class Recipe(Settings):
    """How a compressed network is fine-tuned before it is judged."""

    epochs: float = Field(1.0, ge=0, le=MOST_EPOCHS)
    """Passes over the fine-tuning part; fractions are allowed, 0 judges right after batch norm is measured anew."""
    batch_size: int = Field(128, ge=2, le=MOST_BATCH)
    """Images per step."""
    lr: float = Field(0.01, gt=0, le=1000)
    """Peak learning rate of SGD with Nesterov momentum."""
    schedule: Literal["one-cycle", "cosine"] = "cosine"
    """How the learning rate moves: cosine falls; one-cycle rises first, which drives a compressed network off."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD; 0 is plain SGD."""
    weight_decay: float = Field(5e-4, ge=0, le=100)
    """L2 penalty of SGD."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes."""
    distill_weight: Annotated[float, Field(ge=0, le=1), Option("--distill")] = 0.9
    """Share of the loss that follows the dense network's outputs; 0 turns distillation off."""
    temperature: float = Field(4.0, gt=0, le=10_000)
    """Softens both networks' outputs for distillation."""
    recalibration_images: int = Field(2048, ge=0, le=MOST_IMAGES)
    """Augmented training images over which batch norm is measured anew, before and after a fine-tune; 0 keeps it."""


ZERO_SHOT = Recipe(epochs=0)
DENSE_TRAINING = Recipe(epochs=30, lr=0.1, schedule="one-cycle", distill_weight=0)
"""From random weights, and with no network to follow."""
