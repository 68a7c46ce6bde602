"""One codebook for all 3×3 kernels of ResNet-18, 1.2 million of them, against scikit-learn; one process, one run.

    python benchmarks/clustering.py                 ours with 1 and 8 transforms, MiniBatchKMeans, KMeans
    python benchmarks/clustering.py --ours          ours alone, whose peak memory is then the process's

Weights are torchvision's initial ones unless --weights names a checkpoint. Points are divided by their signed norms, as
kernel clustering does. The error is Σ ‖x - codeword‖² over all points; 8 transforms have eight times the codewords.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import sklearn
import torch
import torchvision
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from methods.clustering.scaled_kernels import signed_scales
from methods.tables.vector_quantizer import fit_codebooks, kernel_symmetries, quantize_points, transform_centers

K = 64


def kernels(weights: Path | None) -> Tensor:
    """(1,220,608, 9), normalised."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    if weights is not None:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    found = [m.weight.detach() for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    return torch.cat([(weight.flatten(2) / signed_scales(weight)[..., None]).flatten(0, 1) for weight in found])


def ours(points: Tensor, transforms: int) -> float:
    """The squared error."""
    orders = kernel_symmetries((3, 3), transforms).to(points.device)
    book = next(fit_codebooks(points, [K], orders, seed=0))
    return float(quantize_points(points, transform_centers(book.centers, orders))[1])


def measured(name: str, work: Callable[[], float]) -> tuple[float, float]:
    """Seconds and squared error, printed with the highest memory the process has held so far."""
    start, processor = time.perf_counter(), time.process_time()
    error = work()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"{name:24} {seconds:8.2f} s ({processor:8.2f} s of processor), error {error:10.0f}, peak {peak:.2f} GiB",
        flush=True,
    )
    return seconds, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ours", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    points = kernels(arguments.weights)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} threads"
    print(f"{len(points)} kernels into {K} centroids, {arguments.weights or 'random weights'}; {device}")
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__} (on the CPU)")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"before the first fit: peak {resident:.2f} GiB")
    on_device, values = points.to(arguments.device), points.numpy()
    one = measured("ours, 1 transform", lambda: ours(on_device, 1))
    measured("ours, 8 transforms", lambda: ours(on_device, 8))
    if arguments.ours:
        return
    others = {"MiniBatchKMeans": MiniBatchKMeans(K, random_state=0), "KMeans": KMeans(K, random_state=0)}
    for name, model in others.items():
        seconds, error = measured(name, lambda model=model: float(model.fit(values).inertia_))
        print(f"    ours with 1 transform: {seconds / one[0]:.1f} times faster, error {one[1] / error:.4f} of theirs")


if __name__ == "__main__":
    main()
