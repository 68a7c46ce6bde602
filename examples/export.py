"""Files to deploy, and back again: with this package, with torch alone, with onnxruntime alone.

    python examples/export.py

Under a minute on two idle cores, with the embedded digits. ONNX needs `pip install -e '.[export]'`.
"""

import importlib.util

import torch

from search import api


def main() -> None:
    """The cells, one after another."""
    # %% A search to export from; the embedded digits and network
    result = api.search(
        strategy="acra-uniform", targets=0.5, epochs=0.5, final_epochs=1, final_seeds=2, batch_size=64, workers=0
    )

    # %% Export: every form is tried on test images against the fine-tuned network before it counts
    onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    formats = ["config", "safetensors", "pt2", *(["onnx"] if onnx else [])]
    made = api.export(result.folder, pick="best", formats=formats, force=True)

    # %% Back as a trainable network, without the ledger or the dense weights
    images = torch.randn(4, *made.config.inputs.shape)
    network = api.load_compressed(made.folder)
    with torch.no_grad():
        expected = network(images)

    # %% With torch alone
    program = torch.export.load(made.folder / "model.pt2").module()
    with torch.no_grad():
        print(f"torch.export: largest difference {(program(images) - expected).abs().max():.1e}")

    # %% With onnxruntime alone
    if onnx:
        import onnxruntime

        runtime = onnxruntime.InferenceSession(made.folder / "model.onnx", providers=["CPUExecutionProvider"])
        (outputs,) = runtime.run(None, {runtime.get_inputs()[0].name: images.numpy()})
        print(f"onnxruntime: largest difference {(torch.from_numpy(outputs) - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
