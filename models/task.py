"""A task: network, weights, data and normalisation; what every candidate is judged against."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TaskConfig(BaseModel):
    """Everything needed to rebuild a task on another machine; plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    """A name from `networks`, a torchvision classification network, or `path/to/file.py:function`."""
    weights: str | None = None
    """Checkpoint file; None leaves the initial weights."""
    data: str = "digits"
    """A data set's name, `imagefolder:DIR`, `npz:FILE`, or `path/to/file.py:function`."""
    data_root: str = "data"
    """Where torchvision's sets lie or are downloaded to."""
    mean: tuple[float, ...] | None = None
    """Per channel, for inputs scaled to [0, 1]; None takes the data set's own."""
    std: tuple[float, ...] | None = None
    search_fraction: float = Field(0.1, gt=0, lt=1)
    """Part of the training set, stratified, that ranks candidates."""
    split_seed: int = 0
    train_images: int | None = Field(None, ge=1)
    """Use only so many training images (stratified), for trials."""
