"""What the outputs of a deployed network stand for, and what it expects of pixels, is kept with run and export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from search import api

NAMES = np.array([*"abcdefghi", "j`k"])
RUN = {
    "epochs": 0,
    "final_epochs": 12,
    "final_seeds": 1,
    "lr": 0.1,
    "distill_weight": 0,
    "workers": 0,
    "device": "cpu",
    "show": False,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a network for floats from 0 to 255 whose classes have names."""
    folder = tmp_path_factory.mktemp("described")
    digits = load_digits()
    images, labels = digits.images * 15.9, NAMES[digits.target]
    data = (images[:600], labels[:600], images[600:700], labels[600:700])
    found = api.search(
        "small", data, strategy="acra-uniform", name="run", results=folder, targets=0.5, batch_size=64, **RUN
    )
    found.export(to=folder / "out", formats=("config", "safetensors"))
    return folder


def test_the_run_keeps_labels_and_range(exported: Path) -> None:
    record = json.loads((exported / "run" / "run.json").read_text())
    assert record["data"]["labels"] == NAMES.tolist()
    assert (record["data"]["pixels"]["low"], record["data"]["pixels"]["high"]) == (0, 255)
    assert any(notice.startswith("names a, b, c") for notice in record["notices"])
    assert any("float32 from 0 to 254.4, read on the scale from 0 to 255" in notice for notice in record["notices"])


def test_outputs_can_be_read_with_the_configuration_alone(exported: Path) -> None:
    inputs = json.loads((exported / "out" / "config.json").read_text())["inputs"]
    digits = load_digits()
    pixels, truth = torch.from_numpy(digits.images[700:] * 15.9).float(), NAMES[digits.target[700:]]
    low, high = inputs["pixel_range"]
    images = (((pixels - low) / (high - low)) - inputs["mean"][0]) / inputs["std"][0]
    with torch.no_grad():
        outputs = api.load_compressed(exported / "out")(images[:, None])
    named = np.array(inputs["labels"])[outputs.argmax(1).numpy()]
    assert (named == truth).mean() > 0.3  # by chance, or with labels mixed up, a tenth


def test_the_card_names_them(exported: Path) -> None:
    card = (exported / "out" / "README.md").read_text()
    assert "scaled from [0, 255] to [0, 1]" in card
    assert "10 logits each, in the order of the labels `a`, `b`, `c`" in card
    assert "`j k`" in card  # no name ends the code that it stands in
