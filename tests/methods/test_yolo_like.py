"""A YOLOv8-like detector: nearly all of it can be pruned, in both modes, and its export computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from independent import count_cost
from torch import Tensor, nn
from yolo_like import YoloLike, raw_maps

from methods.dense_shares import dense_shares
from methods.filters.filter_pruning import FilterPruning
from methods.registry import create
from methods.testing.conformance import uniform_levels
from models.execution.tensor_leaves import output_leaves

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def seeded_detector(**options: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return YoloLike(**options).eval()


def bind_method(network: nn.Module) -> FilterPruning:
    compressor = create("l1", network, IMAGES)
    assert isinstance(compressor, FilterPruning)
    return compressor


@pytest.fixture(scope="module")
def detector() -> FilterPruning:
    return bind_method(seeded_detector())


@pytest.fixture(scope="module")
def half(detector: FilterPruning) -> nn.Module:
    """At kept 0.5: every site by the smallest ratio that meets it."""
    allocations = (detector.allocation(uniform_levels(detector, ratio / 200)) for ratio in range(200))
    allocation = next(a for a in allocations if detector.cost_of(a).flops <= 0.5 * detector.cost.dense.flops)
    small = detector.compress(allocation)
    counted = count_cost(small, IMAGES)
    assert detector.cost_of(allocation) == counted
    assert 0.48 <= counted.flops / count_cost(detector.network, IMAGES).flops <= 0.5
    return small


def silence_channels(detector: FilterPruning, small: nn.Module) -> nn.Module:
    """The dense network with zeros in the place of what the small one has lost, known by the filters that are left.

    Batch norms are told apart by their weights, which are random here; scale and shift 0 silence a channel.
    """
    twin, smaller = copy.deepcopy(detector.network), dict(small.named_modules())
    for name, module in twin.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            gone = ~torch.isin(module.weight, smaller[name].weight)  # type: ignore[arg-type]
            module.weight.data[gone] = module.bias.data[gone] = 0
    return twin


def test_nearly_all_of_it_can_be_narrowed(detector: FilterPruning) -> None:
    shares = dense_shares(detector, detector.skipped)
    assert sum(share.share for share in shares) < 0.05
    assert {share.reason for share in shares} == {"it is an output of the network", "it has one output channel"}
    least = detector.cost_of(detector.allocation(uniform_levels(detector, 1.0)))
    assert least.flops < 0.02 * detector.cost.dense.flops


def test_blocks_that_split_by_a_width_they_hold_have_the_same_sites(detector: FilterPruning) -> None:
    assert bind_method(seeded_detector(split=True)).sites == detector.sites


def test_it_meets_half_of_its_flops_and_runs_in_both_modes(half: nn.Module) -> None:
    boxes, maps = half.eval()(IMAGES)
    assert boxes.shape == (2, 4 + 5, 8 * 8 + 4 * 4 + 2 * 2)
    assert half(torch.zeros(1, 3, 96, 64))[0].shape == (1, 9, 12 * 8 + 6 * 4 + 3 * 2)  # anchors of other maps
    training = half.train()(IMAGES)
    assert isinstance(training, list)
    assert [values.shape for values in training] == [values.shape for values in maps]
    half.eval()


def test_it_computes_what_the_dense_one_does_without_those_channels() -> None:
    network = seeded_detector()
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    compressor = bind_method(network)
    small = compressor.compress(compressor.allocation([len(site.settings) // 2 for site in compressor.sites]))
    with torch.no_grad():
        expected, outputs = silence_channels(compressor, small)(IMAGES), small.eval()(IMAGES)
    for wanted, got in zip(output_leaves(expected), output_leaves(outputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_training_step_moves_every_weight_that_is_trained(half: nn.Module) -> None:
    before = copy.deepcopy(half.state_dict())
    optimizer = torch.optim.SGD((p for p in half.parameters() if p.requires_grad), lr=1e-2)
    loss = sum((values.square().mean() for values in raw_maps(half.train()(IMAGES))), torch.zeros(()))
    loss.backward()
    optimizer.step()
    still = [name for name, _ in half.named_parameters() if torch.equal(before[name], half.state_dict()[name])]
    assert still == ["model.22.dfl.conv.weight"]
    half.load_state_dict(before)
    half.eval()


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_its_exports_give_equal_boxes_and_maps(half: nn.Module, form: str) -> None:
    with torch.no_grad():
        expected = output_leaves(half.eval()(IMAGES))
        program = torch.export.export(half, (IMAGES,))
        outputs = output_leaves(program.module()(IMAGES)) if form == "pt2" else run_onnx(program, IMAGES)
    for wanted, got in zip(expected, outputs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def run_onnx(program: torch.export.ExportedProgram, images: Tensor) -> list[Tensor]:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = torch.onnx.export(program, dynamo=True, verbose=False, external_data=False)
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return [torch.from_numpy(values) for values in session.run(None, feed)]
