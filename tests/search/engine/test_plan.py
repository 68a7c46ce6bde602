"""Plans: their form, their figures, and that nothing is loaded which is not needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from methods.registry import create
from models.errors import UserError
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from search.engine.plan import solve_plan
from search.judge import evaluate
from search.settings.config import RunConfig

# stem and six convolutions of 16 at 32×32; then one that widens and five at 16×16; the same at 8×8; the classifier
DENSE = 9 * (32**2 * (3 * 16 + 6 * 16**2) + 16**2 * (16 * 32 + 5 * 32**2) + 8**2 * (32 * 64 + 5 * 64**2)) + 640


def config(target: str = "0.5", *, root: Path | str = "/nonexistent", **fields: object) -> RunConfig:
    task = TaskConfig(network="resnet20", data="cifar10", data_root=str(root))
    return RunConfig(
        **{"task": task, "strategies": ("acra-uniform",), "targets": (target,), "name": "plan", **fields}  # type: ignore[arg-type]
    )


def test_form() -> None:
    found = solve_plan(config()).record
    assert json.loads(json.dumps(found)) == found
    required = {
        "network": str, "method": str, "strategy": str, "target": dict, "dense": dict, "achieved": dict,
        "reachable": dict, "allocation": dict, "kept_channels": dict, "solve_seconds": float,
    }  # fmt: skip
    for name, kind in required.items():
        assert isinstance(found[name], kind), name
    assert (found["network"], found["method"], found["strategy"]) == ("resnet20", "l1", "acra-uniform")
    assert {"asked", "flops"} <= found["target"].keys()
    assert found["dense"].keys() == {"flops", "params", "bytes"}
    assert found["achieved"].keys() == {"flops", "kept_flops", "params", "bytes"}
    assert found["reachable"].keys() == {"min_kept", "max_kept"}


@pytest.mark.parametrize("target", ["0.7", "0.5", "0.3", "2x", "20M", "50%"])
def test_figures_hold_on_the_really_pruned_network(target: str) -> None:
    found = solve_plan(config(target)).record
    network = build_network("resnet20", classes=10)
    compressor = create("l1", network, torch.randn(2, 3, 32, 32))
    assert found["dense"]["flops"] == DENSE
    assert set(found["allocation"]) == {site.name for site in compressor.sites}
    small = compressor.compress(compressor.allocation(compressor.levels(found["allocation"])))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small.eval()(torch.randn(1, 3, 32, 32))
    assert found["achieved"]["flops"] == counter.get_total_flops() // 2
    assert found["achieved"]["params"] == sum(p.numel() for p in small.parameters())
    for site, channels in found["kept_channels"].items():  # sites of this network go by the layer that writes them
        dense_layer, layer = network.get_submodule(site), small.get_submodule(site)
        assert channels == {"kept": layer.out_channels, "of": dense_layer.out_channels}
    limit = found["target"]["flops"]
    assert limit - 0.005 * DENSE <= found["achieved"]["flops"] <= limit
    assert found["target"]["met"] is True
    assert found["achieved"]["kept_flops"] == found["achieved"]["flops"] / DENSE


def test_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("data was loaded")

    monkeypatch.setattr(evaluate, "Evaluator", forbidden)
    solve_plan(config(root=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_scan_is_judged_on_the_way() -> None:
    task = TaskConfig(network="small", data="digits", train_images=300)
    found = solve_plan(config(task=task, strategies=("acra-sensitivity",), scan_levels=1, scan_images=20)).record
    assert found["strategy"] == "acra-sensitivity"
    assert found["achieved"]["flops"] <= found["target"]["flops"]


def test_calibrating_methods_are_given_their_batches() -> None:
    task = TaskConfig(network="small", data="digits", train_images=300)
    assert solve_plan(config(task=task, methods=("taylor",))).record["method"] == "taylor"


def test_one_target_and_one_strategy() -> None:
    for fields in ({"targets": ("0.5", "0.3")}, {"strategies": ("acra-uniform", "acra-sensitivity")}):
        with pytest.raises(UserError, match="one target and one strategy"):
            solve_plan(config(**fields))  # type: ignore[arg-type]


def test_out_of_reach_says_what_is_within() -> None:
    least = solve_plan(config()).record["reachable"]["min_kept"]
    with pytest.raises(UserError, match=f"kept {least:.4f} to 1"):
        solve_plan(config(f"{least / 2:.9f}"))
    assert solve_plan(config(f"{least * 1.01:.9f}")).record["achieved"]["kept_flops"] <= least * 1.01
