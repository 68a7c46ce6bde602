"""Search, fine-tune and export networks that nobody here wrote, on random images.

    python benchmarks/coverage_searches.py [--only timm/skresnet18 …] [--out results/coverage_searches.csv] [--limit S]

Needs `pip install -e '.[coverage,export]'`. One search per network: kept 0.5, `acra-uniform`, one short epoch, one
finalist; then an export in every form, each compared with the fine-tuned network by the export itself. Labels are
random, so accuracies mean nothing and are not shown. Networks are measured in processes of their own; run again, the
script goes on with those that have no row.

    kept            part of the FLOPs that the exported network keeps; 0.5 was asked for
    exact           FLOPs of the exported network, counted there, are what the search said and what it leaves out:
                    products of activations with each other
    candidates      judged by a short fine-tune, and those of them that failed
    tests           meetings of finalists with the test set
    forms           files that were written and gave the network's outputs
    difference      the largest difference of a file's outputs, over the largest output
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import timm
import torch
from torch import nn
from torchvision import models

from benchmarks.coverage_networks import VISION_SIZES
from benchmarks.row_files import Row, measure_apart, read_rows, write_rows
from methods.graph.trace import uncounted_flops
from search import api

CLASSES = 4
IMAGES = 48  # to fine-tune on and to search with; as many to test
COLUMNS = (
    "network", "image", "params", "sites", "kept", "exact", "candidates", "failed", "tests", "forms", "difference",
    "seconds", "fault",
)  # fmt: skip
# One of each family whose channels meet in another way: shuffles, splits, gates, attention, kernels chosen by softmax.
_NAMES = """
timm/resnet10t timm/lcnet_035 timm/skresnet18 timm/mixnet_s timm/cs3darknet_s timm/ghostnet_050 timm/convnextv2_atto
timm/edgenext_xx_small timm/mobilevit_xxs timm/pit_ti_224 timm/xcit_nano_12_p16_224 timm/efficientvit_b0
timm/fasternet_t0 timm/fastvit_t8 timm/nf_regnet_b0 timm/repvit_m0_9 timm/dla46_c timm/rexnet_100 timm/mixer_s32_224
timm/resnest14d timm/swiftformer_xs timm/inception_next_atto classification/shufflenet_v2_x0_5
classification/mobilenet_v3_small classification/squeezenet1_1 classification/googlenet classification/regnet_y_400mf
classification/efficientnet_b0
"""
NAMES = tuple(_NAMES.split())


def build_classifier(name: str) -> tuple[nn.Module, int]:
    """A network of four classes with weights from seed 0, and the side of its images."""
    torch.manual_seed(0)
    suite, _, model = name.partition("/")
    if suite == "classification":
        return models.get_model(model, weights=None, num_classes=CLASSES), VISION_SIZES.get(model, 96)
    network = timm.create_model(model, num_classes=CLASSES)
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, 96, 96))
    except Exception:  # whatever a network says of the wrong size
        return network, int(network.default_cfg["input_size"][-1])
    return network, 96


def measure_search(name: str) -> Row:
    """The row of one network."""
    network, size = build_classifier(name)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2 * IMAGES, size, size, 3), dtype=np.uint8)
    labels = np.arange(2 * IMAGES) % CLASSES
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = api.search(
            network,
            (images[:IMAGES], labels[:IMAGES], images[IMAGES:], labels[IMAGES:]),
            targets=0.5,
            strategy="acra-uniform",
            epochs=0.5,
            final_epochs=0.5,
            final_seeds=1,
            batch_size=12,
            search_fraction=0.25,
            workers=0,
            results=folder,
            show=False,
        )
        exported = result.export("best", to=str(Path(folder) / "chosen"))
        config, table = exported.config, result.table
        flops = config.cost.flops + uncounted_flops(exported.network, torch.randn(1, 3, size, size))
        return {
            "image": size,
            "params": sum(parameter.numel() for parameter in network.parameters()),
            "sites": len(config.allocation),
            "kept": round(config.cost.flops / config.dense.flops, 4),
            "exact": "yes" if config.metrics.executed_flops == flops else "no",
            "candidates": int((table["stage"] == "search").sum()),
            "failed": int((table["status"] == "failed").sum()),
            "tests": int(result.finalists["seeds"].sum()),
            "forms": len(config.metrics.agreement),
            "difference": f"{max(config.metrics.agreement.values()):.1e}",
            "seconds": round(time.perf_counter() - start, 1),
        }


def main() -> None:
    """Measure what has no row yet, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=[], metavar="NAME", help="measure these")
    default = Path(__file__).resolve().parents[1] / "results" / "coverage_searches.csv"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--limit", type=float, default=900, help="seconds for a network")
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    for name in arguments.only or [name for name in NAMES if name not in rows]:
        rows[name] = {"network": name, **measure_apart(measure_search, name, arguments.limit)}
        write_rows(arguments.out, COLUMNS, rows, NAMES)
        print(json.dumps(rows[name]), flush=True)


if __name__ == "__main__":
    main()
