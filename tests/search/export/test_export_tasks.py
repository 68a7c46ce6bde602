"""Networks of users' own tasks, exported: names, sizes and values of every tensor, and the way back."""

from __future__ import annotations

from pathlib import Path

import export_tasks
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from models.errors import UserError
from models.execution.inputs import Inputs
from models.execution.tensor_leaves import output_leaves
from search import api
from search.export import compressed
from search.export.export import Exported

FILE = Path(export_tasks.__file__)
FORMS = ("config", "safetensors", "pt2", "onnx")


def exported(folder: Path, build: str, formats: tuple[str, ...] = FORMS) -> Exported:
    found = api.search(
        task=f"{FILE}:{build}", method="l1", strategy="acra-uniform", targets=0.6, epochs=0, final_epochs=0,
        final_seeds=1, workers=0, device="cpu", show=False, results=folder, name="run",
    )  # fmt: skip
    return found.export(to=folder / "out", formats=formats)


def run_onnx(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def check_loaded(made: Exported, inputs: Inputs, network: str | nn.Module | None = None) -> None:
    loaded = api.load_compressed(made.folder, network=network)
    pairs = zip(output_leaves(inputs(loaded)), output_leaves(inputs(made.network)), strict=True)
    assert all(torch.equal(output, wanted) for output, wanted in pairs)


def test_two_inputs_by_name_and_a_dictionary_with_nothing_in_an_entry(tmp_path: Path) -> None:
    made = exported(tmp_path, "two_inputs")
    signature = made.config.signature
    assert signature is not None
    assert [str(info) for info in signature.inputs] == ["float32 (N, 3, 8, 8)", "float32 (N, 4)"]
    assert [info.name for info in (*signature.inputs, *signature.outputs)] == ["pixel_values", "extra", "logits"]
    pixels, extra = torch.randn(7, 3, 8, 8), torch.randn(7, 4)
    wanted = made.network(pixels, extra=extra)["logits"].detach()
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    torch.testing.assert_close(program(pixel_values=pixels, extra=extra)["logits"], wanted, rtol=1e-4, atol=1e-5)
    given = {"pixel_values": pixels.numpy(), "extra": extra.numpy()}
    logits = torch.from_numpy(run_onnx(tmp_path / "out", given)["logits"])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    check_loaded(made, Inputs.of({"pixel_values": pixels, "extra": extra}))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "module()(pixel_values=pixel_values, extra=extra)" in card
    assert "| returns | `logits` | float32 (N, 5) |" in card
    assert "accuracy" not in card.lower()


def test_objects_of_tensors_are_written_by_their_fields(tmp_path: Path) -> None:
    made = exported(tmp_path, "detector")
    images = torch.randn(3, 3, 8, 8)
    maps = made.network(images)
    results = run_onnx(tmp_path / "out", {"images": images.numpy()})
    assert [value.shape for value in results.values()] == [(3, 4, 8, 8), (3, 8, 8)]
    boxes, classes = map(torch.from_numpy, results.values())
    torch.testing.assert_close(boxes, maps.boxes.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(classes, maps.classes)
    check_loaded(made, Inputs.of(images))


def test_a_network_for_one_input_at_a_time_is_exported_for_that(tmp_path: Path) -> None:
    made = exported(tmp_path, "one_at_a_time")
    assert made.config.signature is not None
    images = torch.randn(1, 3, 8, 8)
    (output,) = run_onnx(tmp_path / "out", {"images": images.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(output), made.network(images).detach(), rtol=1e-4, atol=1e-5)
    assert {latency.batch for latency in made.config.metrics.latency} == (
        {1, 64} if made.config.signature.any_batch else {1}
    )


def test_lists_of_images_are_compressed_counted_and_loaded_again(tmp_path: Path) -> None:
    made = exported(tmp_path, "lists", ("config", "safetensors"))
    images = [torch.randn(3, 8, 8), torch.randn(3, 10, 6)]
    check_loaded(made, Inputs.of(images))
    made.network.train()
    assert made.network(images, [{"label": torch.tensor(0)}] * 2)["loss"].requires_grad
    assert made.config.cost.flops <= 0.6 * made.config.dense.flops


@pytest.mark.parametrize("formats", [("config", "pt2", "onnx")])
def test_lists_of_images_are_exported_for_one_image(tmp_path: Path, formats: tuple[str, ...]) -> None:
    made = exported(tmp_path, "lists", formats)
    assert made.config.signature is not None
    assert not made.config.signature.any_batch
    image = torch.randn(3, 8, 8)
    (result,) = torch.export.load(tmp_path / "out" / "model.pt2").module()([image])
    wanted = made.network([image])[0]
    torch.testing.assert_close(result["scores"], wanted["scores"].detach(), rtol=1e-4, atol=1e-5)
    found = run_onnx(tmp_path / "out", {"images_0": image.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(found["output_0_scores"]), wanted["scores"].detach(), rtol=1e-4, atol=1e-5
    )


def test_the_network_of_a_task_that_was_given_as_an_object_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = export_tasks.detector()
    found = api.search(
        task=task, method="l1", strategy="acra-uniform", targets=0.6, epochs=0, final_epochs=0, final_seeds=1,
        workers=0, device="cpu", show=False, results=tmp_path, name="run",
    )  # fmt: skip
    made = found.export(to=tmp_path / "out", formats=("config", "safetensors"))
    check_loaded(made, Inputs.of(torch.randn(2, 3, 8, 8)))
    monkeypatch.setattr(compressed, "GIVEN_TASKS", {})  # as in another process
    with pytest.raises(UserError, match="give its network, built in the same way"):
        api.load_compressed(made.folder)
    check_loaded(made, Inputs.of(torch.randn(2, 3, 8, 8)), export_tasks.Detector())


def test_calls_by_name_are_tried_as_the_example_gives_them(tmp_path: Path) -> None:
    made = exported(tmp_path, "called_by_name", ("config", "pt2", "onnx"))
    assert made.config.signature is not None
    assert made.config.signature.positional == ("images",)
    assert max(made.config.metrics.agreement.values()) < 1e-4


def test_files_hold_two_inputs_and_not_the_data_that_these_are_of(tmp_path: Path) -> None:
    made = exported(tmp_path, "of_much_data", ("config", "safetensors", "pt2"))
    example = torch.load(made.folder / "example.pt", weights_only=True)["args"][0]
    assert len(example.untyped_storage()) == example.numel() * 4
    assert (made.folder / "example.pt").stat().st_size < 10_000
    assert (made.folder / "model.pt2").stat().st_size < 60_000
