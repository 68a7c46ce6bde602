"""`config.json` of an export: what was made, from what, how good it is. Versioned, closed to unknown fields.

FLOPs are multiply-accumulates for one input, accuracies and other percentages lie in 0..1, times are milliseconds for a
whole batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from methods.base import Allocation
from models.errors import UserError, first_line
from models.task_config import TaskConfig
from models.tasks.metric import ACCURACY, Metric
from search.allocation.targets import Target
from search.candidate import Frozen
from search.export.layer_comparison import LayerTime
from search.export.signature import Signature
from search.latency.timing import Latency
from search.recipe import StoredRecipe

VERSION = 4  # 2: labels and range of pixels; 3: methods in users' files; 4: tasks of users
CONFIG, WEIGHTS, PROGRAM, ONNX, CARD = "config.json", "model.safetensors", "model.pt2", "model.onnx", "README.md"
_OF_ACCURACY = {
    "test_score": "test_accuracy",
    "test_inputs": "test_images",
    "dense_test_score": "dense_test_accuracy",
}
EXAMPLE = "example.pt"  # inputs of a network that its user's own task trains
PICTURE = "centroids.png"  # of methods that have some


class Pictures(Frozen):
    """What the network takes: float32 (N, *shape), normalised from pixels in [0, 1]; its outputs are (N, classes).

    A pixel of the data becomes `((pixel - low) / (high - low) - mean) / std`, low and high being the `pixel_range`.
    """

    shape: tuple[int, int, int]
    """(C, H, W)"""
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] = (0.0, 255.0)
    """The data's values for 0 and for 1."""
    labels: tuple[int | str, ...] = ()
    """What the outputs stand for, in their order; empty where labels are class numbers."""


class UserFile(Frozen):
    """The user's own file that defines the network."""

    path: str
    """Absolute, on the machine that exported."""
    function: str
    sha256: str


class Costs(Frozen):
    """What a network costs for one input."""

    flops: int
    params: int
    bytes: int
    """Of the stored parameters: dense ones in fp32, tables at their bit width."""


class Metrics(Frozen):
    """Scores on the test set; in JSON those of accuracy are called so, and inputs images."""

    metric: Metric = ACCURACY
    test_score: float
    """Of these very weights."""
    test_inputs: int
    dense_test_score: float
    seed: int
    """Of these weights."""
    seeds: tuple[int, ...]
    """All seeds of the same candidate that met the test set, of which the next two are taken."""
    mean: float
    std: float | None
    """Of the sample (n − 1); None for one seed."""
    n: int
    agreement: dict[str, float] = {}
    """File -> largest difference to the fine-tuned network's outputs on test images, over their largest magnitude."""
    executed_flops: int
    """Counted anew on the network that `model.pt2` and `model.onnx` run; shared kernels stand there written out."""
    latency: tuple[Latency, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    """Of `model.onnx` in onnxruntime, one input at a time, beside the dense network's."""

    @model_validator(mode="before")
    @classmethod
    def _read_accuracy(cls, fields: Any) -> Any:
        names = {outside: inside for inside, outside in _OF_ACCURACY.items()}
        return {names.get(name, name): value for name, value in fields.items()} if isinstance(fields, dict) else fields

    @model_serializer(mode="wrap")
    def _write_accuracy(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if self.metric != ACCURACY:
            return fields
        return {_OF_ACCURACY.get(name, name): value for name, value in fields.items() if name != "metric"}


class Stored(Frozen):
    """One file of the export."""

    bytes: int = Field(ge=0)
    sha256: str


class Origin(Frozen):
    """How the candidate was found."""

    run: str
    candidate: str
    """The key of its outcome."""
    pick: str
    strategy: str
    target: Target
    searched: int
    """Candidates that the run judged."""
    host: dict[str, str] = {}


class ExportConfig(Frozen):
    """All there is to know of an export; with `model.safetensors` it suffices to rebuild the network."""

    version: int = VERSION
    task: TaskConfig
    fingerprint: str
    """Of the task: network, weights, data and split."""
    inputs: Pictures | None = None
    """None of a task of the user's own."""
    signature: Signature | None = None
    """Of the network of such a task."""
    network_file: UserFile | None = None
    method: str
    method_files: dict[str, str] = {}
    """Where a method is that lies in a user's own file (`methods.registry.identify_method`)."""
    options: dict[str, Any]
    allocation: Allocation
    """A setting for every site."""
    cost: Costs
    dense: Costs
    metrics: Metrics
    recipe: StoredRecipe
    seen: bool
    """Whether the dense weights may have been trained on the images that ranked candidates."""
    files: dict[str, Stored]
    origin: Origin


def read_config(folder: Path) -> ExportConfig:
    """The configuration in an export's folder.

    Raises:
        UserError: there is none, it is not whole, not ours, or of a newer version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} holds no {CONFIG}: it is no export, or one that was interrupted; export again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not whole ({first_line(error)}); export again") from None
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or "allocation" not in content:
        raise UserError(f"{path} was not written by ratio-search's export; give the folder of an export")
    if version > VERSION:
        raise UserError(f"{path} has version {version} and this program reads up to {VERSION}; use a newer one")
    try:
        return ExportConfig.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path} cannot be used: {where}: {fault['msg']}; export again") from None
