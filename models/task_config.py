"""The settings of a task: network, weights, data, and how images are read, augmented and split."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.paths import user_path
from models.settings import MOST_IMAGES, MOST_SEED, Option, Settings
from models.user.code import is_user_spec


class TaskConfig(Settings):
    """Everything needed to rebuild a task on another machine; plain JSON."""

    network: Annotated[str, Option(or_object=True, default="a small one, trained in seconds on digits")]
    """A name from `networks`, a torchvision classification network, or path/to/file.py:function."""
    task: Annotated[str | None, Option(or_object=True)] = None
    """A task of your own in place of network and data, path/to/file.py:function: its function returns a Task."""
    weights: str | None = None
    """Checkpoint of the dense network (.pt, .pth, .safetensors); FILE#ema: a part of it."""
    data: Annotated[str, Option(or_object=True, default="what a named network is made for")] = "digits"
    """A data set's name, imagefolder:DIR, npz:FILE or path/to/file.py:function."""
    data_root: str = "data"
    """Where torchvision's data sets lie or are downloaded to."""
    mean: Annotated[tuple[float, ...] | None, Option(default="the data's own")] = None
    """Mean per channel, of inputs scaled to 0..1."""
    std: Annotated[tuple[float, ...] | None, Option(default="the data's own")] = None
    """Standard deviation per channel, of inputs scaled to 0..1."""
    flip: Annotated[bool | None, Option(default="the data's own")] = None
    """Mirror training images at random."""
    crop: Annotated[int | None, Field(ge=0, le=1000), Option(default="the data's own")] = None
    """Shift training images at random by up to so many pixels."""
    search_fraction: Annotated[float, Field(gt=0, lt=1), Option(default="0.1; 0.25 of the embedded digits")] = 0.1
    """Part of the training set, stratified, that ranks candidates."""
    split_seed: int = Field(0, ge=0, le=MOST_SEED)
    """Seed of the split of the training set."""
    train_images: Annotated[int | None, Field(ge=1, le=MOST_IMAGES), Option(default="all")] = None
    """Use only so many training images, for a quick trial; both parts shrink alike, stratified."""

    def with_absolute_paths(self) -> TaskConfig:
        """The same task with absolute paths, for a process that runs in another folder."""
        changes: dict[str, str] = {"data_root": str(user_path(self.data_root).absolute())}
        if self.weights is not None:
            changes["weights"] = str(user_path(self.weights).absolute())
        for field in ("network", "data", "task"):
            spec = getattr(self, field) or ""
            kind, colon, rest = spec.partition(":")
            if kind in ("npz", "imagefolder") and colon:
                changes[field] = f"{kind}:{user_path(rest).absolute()}"
            elif is_user_spec(spec):
                path, _, function = spec.rpartition(":")
                changes[field] = f"{user_path(path).absolute()}:{function}"
        return self.model_copy(update=changes)
