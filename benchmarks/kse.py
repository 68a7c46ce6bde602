"""KSE's indicator and k-means, batched over channels, against the straightforward way; one process, one run.

    python benchmarks/kse.py --weights resnet56-4bfd9763.th     ResNet-56, G = 4, T = 0
    python benchmarks/kse.py --network resnet50                 ResNet-50: seconds and peak memory of ours alone

The straightforward way asks scikit-learn for the nearest neighbours of one kernel at a time, as the published code
does, and fits one scikit-learn KMeans per channel. Weights are random unless given, and drawn so that input channels
differ in strength.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sklearn
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from methods.base import Allocation, example_input
from methods.kse.kse import KSE
from methods.kse.kse_indicator import kept_kernels
from methods.registry import create
from methods.tables.codebook import codebook_layers, expand_layer
from models.networks.catalog import build_network

G, T = 4, 0


def network(name: str, weights: Path | None) -> nn.Module:
    torch.manual_seed(0)
    built = build_network(name, classes=1000 if name == "resnet50" else 10)
    if weights is not None:
        stored = torch.load(weights, map_location="cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        built.load_state_dict({key.removeprefix("module."): tensor for key, tensor in stored.items()})
        return built.eval()
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            strength = torch.empty(module.weight.shape[1]).uniform_(0.2, 2)
            module.weight.data *= strength[:, None, None]
    return built.eval()


def ours(dense: nn.Module, size: int) -> tuple[KSE, nn.Module, float, float]:
    """The compressor, the compressed network, seconds for the indicator and for the clustering."""
    start = time.perf_counter()
    compressor = create("kse", dense, example_input((3, size, size), next(dense.parameters()).device))
    assert isinstance(compressor, KSE)
    _wait()
    middle = time.perf_counter()
    small = compressor.compress(Allocation({site.name: {"G": G, "T": T} for site in compressor.sites}))
    _wait()
    return compressor, small, middle - start, time.perf_counter() - middle


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def error(dense: nn.Module, small: nn.Module, compressor: KSE) -> float:
    """Σ ‖W - Ŵ‖² over the kernels of the channels that are clustered."""
    total = 0.0
    for name, layer in codebook_layers(small).items():
        weight = dense.get_parameter(f"{name}.weight").detach()
        counts = compressor.kernel_counts(name, G, T)
        clustered = torch.from_numpy((counts > 0) & (counts < weight.shape[0])).to(weight.device)
        total += float((weight - expand_layer(layer).weight.detach())[:, clustered].double().square().sum())
    return total


def straightforward_counts(channels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """q_c of one layer's kernels (C, N, Kh·Kw): a query per kernel, a loop per channel."""
    s, e = [], []
    for kernels in channels:
        s.append(np.abs(kernels).sum())
        search = NearestNeighbors(n_neighbors=min(6, len(kernels))).fit(kernels)
        dm = np.array([search.kneighbors(kernel[None])[0].sum() for kernel in kernels])
        p = dm / dm.sum()
        e.append(-sum(x * math.log2(x) for x in p if x > 0))

    def minmax(values: list[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        array = np.array(values)
        return (array - array.min()) / (array.max() - array.min())

    return kept_kernels(minmax(np.sqrt(minmax(s) / (1 + minmax(e)))), G, T, channels.shape[1])


def straightforward(dense: nn.Module, names: list[str]) -> Iterator[tuple[float, float, float, int]]:
    """Per layer: seconds of the indicator, seconds of k-means, squared error, kernels kept."""
    for name in names:
        weight = dense.get_parameter(f"{name}.weight").detach().cpu()
        channels = weight.flatten(2).transpose(0, 1).numpy()
        start = time.perf_counter()
        counts = straightforward_counts(channels)
        middle = time.perf_counter()
        fits = [KMeans(int(q), random_state=0).fit(kernels).inertia_
                for kernels, q in zip(channels, counts, strict=True) if 0 < q < len(kernels)]  # fmt: skip
        yield middle - start, time.perf_counter() - middle, float(sum(fits)), int(counts.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("resnet56", "resnet20", "resnet50"), default="resnet56")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    dense = network(arguments.network, arguments.weights).to(arguments.device)
    size = 224 if arguments.network == "resnet50" else 32
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} threads"
    print(f"{arguments.network}, G={G}, T={T}, {arguments.weights or 'random weights'}; {device}")
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__}")
    if arguments.network != "resnet50":
        ours(network("resnet20", None).to(arguments.device), 32)  # first calls load libraries
    compressor, small, measuring, clustering = ours(dense, size)
    names = [site.name for site in compressor.sites]
    kept = sum(int(compressor.kernel_counts(name, G, T).sum()) for name in names)
    found = error(dense, small, compressor)
    print(
        f"ours              indicator {measuring:8.3f} s, k-means {clustering:8.3f} s, error {found:.3f}, kept {kept}"
    )
    print(f"                  processor time of the whole process so far {time.process_time():.1f} s")
    if arguments.network == "resnet50":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"peak memory of the process {peak:.2f} GiB")
        return
    indicator, kmeans, inertia, counted = np.array(list(straightforward(dense, names))).sum(0)
    figures = f"indicator {indicator:8.3f} s, k-means {kmeans:8.3f} s, error {inertia:.3f}, kept {counted:.0f}"
    print(f"straightforward   {figures}")
    ratio, alone = (indicator + kmeans) / (measuring + clustering), kmeans / clustering
    print(f"ratio {ratio:.0f} times faster (k-means alone {alone:.1f}), error {found / inertia:.3f} of theirs")


if __name__ == "__main__":
    main()
