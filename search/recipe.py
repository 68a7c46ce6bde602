"""How a network is trained: the settings of a fine-tune, and their values where a dense network is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from models.settings import MOST_BATCH, MOST_EPOCHS, MOST_IMAGES, Option, Settings


class Recipe(Settings):
    """How a compressed network is fine-tuned before it is judged."""

    epochs: float = Field(1.0, ge=0, le=MOST_EPOCHS)
    """Passes over the fine-tuning part; fractions are allowed, 0 judges right after batch norm is measured anew."""
    batch_size: int = Field(128, ge=2, le=MOST_BATCH)
    """Images per step."""
    lr: float = Field(0.02, gt=0, le=1000)
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
    distill_features: float = Field(30.0, ge=0, le=1000)
    """Weight of the features inside the dense network, compared where the size of its maps changes; 0 leaves them out.
    Only for a network that follows the dense one's outputs, if some of these are logits."""
    recalibration_images: int = Field(2048, ge=0, le=MOST_IMAGES)
    """Augmented training images over which batch norm is measured anew, before and after a fine-tune; 0 keeps it."""

    @property
    def follows_features(self) -> bool:
        """Whether features decide anything about a fine-tune."""
        return bool(self.epochs and self.distill_weight and self.distill_features)


def _complete_stored(recipe: Any) -> Any:
    """Recipes that were stored before features were distilled do not name them."""
    return {"distill_features": 0.0, **recipe} if isinstance(recipe, dict) else recipe


StoredRecipe = Annotated[Recipe, BeforeValidator(_complete_stored)]
"""A recipe in a file or ledger, perhaps one of an earlier version."""

ZERO_SHOT = Recipe(epochs=0)
DENSE_TRAINING = Recipe(epochs=30, lr=0.1, schedule="one-cycle", distill_weight=0)
"""From random weights, and with no network to follow."""
