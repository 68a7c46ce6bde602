"""The exported forms, checked by other means: torch's own arithmetic, counts by hand, files read as a stranger does."""

import logging
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn

from methods.registry import create
from models.errors import UserError
from models.execution.inputs import Inputs
from models.networks.shortcut import PadShortcut
from search.export import formats
from search.export.agreement import check_agreement, output_difference, trial_batches
from search.export.formats import (
    capture_program,
    check_onnx,
    convolve_shortcuts,
    count_flops,
    open_onnx,
    open_pt2,
    plain_network,
    write_onnx,
    write_pt2,
)
from search.export.forms import open_forms, write_forms
from search.export.settings import EXPORT
from search.export.signature import Signature, TensorInfo

PICTURES = Signature(
    inputs=(TensorInfo(name="images", dtype="float32", shape=(None, 3, 6, 6)),),
    outputs=(TensorInfo(name="logits", dtype="float32", shape=(None, 5)),),
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        return self.linear(self.deep(self.norm(self.conv(x)).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Net().train()
    net(torch.randn(32, 3, 6, 6))  # statistics that are not 0 and 1
    return net.eval()


def test_flops_are_those_counted_by_hand(net):
    assert count_flops(net, torch.zeros(2, 3, 6, 6)) == 36 * (3 * 8 * 9 + 8 * 8 * 9) + 8 * 5


@pytest.fixture(scope="module")
def written(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    program = capture_program(plain_network(net), torch.randn(2, 3, 6, 6))
    write_pt2(program, folder / "model.pt2")
    write_onnx(program, folder / "model.onnx", PICTURES)
    return folder


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_both_forms_take_any_batch(net, written, batch):
    images = torch.randn(batch, 3, 6, 6)
    expected = net(images).detach()
    for run in (open_pt2(written / "model.pt2"), open_onnx(written / "model.onnx", PICTURES, 1)):
        (outputs,) = run(Inputs.of(images))
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)


def test_files_tell_nothing_of_this_machine(written):
    for name in ("model.pt2", "model.onnx"):
        content = (written / name).read_bytes()
        assert __file__.encode() not in content
        assert b"/torch/nn/" not in content
    graph = onnx.load(written / "model.onnx").graph
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 6, 6]
    assert [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == ["batch", 5]


def test_exporters_print_nothing_and_leave_logging_as_it_was(net, tmp_path, capfd):
    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    write_onnx(capture_program(plain_network(net), torch.randn(2, 3, 6, 6)), tmp_path / "model.onnx", PICTURES)
    assert capfd.readouterr().out == ""
    assert logging.getLogger("torch.onnx").level == logging.INFO


@pytest.mark.parametrize("method", ["kse", "kernel-clustering"])
def test_shared_kernels_are_written_out(net, method):
    example = torch.randn(2, 3, 6, 6)
    compressor = create(method, net, example)
    small = compressor.compress(compressor.allocation([len(site.settings) - 1 for site in compressor.sites]))
    twin = plain_network(small)
    kinds = {type(module) for module in twin.modules()}
    assert kinds == {Net, nn.Conv2d, nn.BatchNorm2d, nn.Linear}
    torch.testing.assert_close(twin(example), small(example).detach(), rtol=1e-5, atol=1e-5)
    assert {type(module) for module in small.modules()} != kinds  # the original keeps its tables


def test_the_original_is_left_as_it_was(net):
    net.to(memory_format=torch.channels_last)
    twin = plain_network(net)
    assert net.conv.weight.requires_grad
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert twin.conv.weight.is_contiguous()
    assert not twin.conv.weight.requires_grad


class Widening(nn.Module):
    """A block that halves its picture and doubles its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, padding=1)
        self.shortcut = PadShortcut(3, 6, 2)

    def forward(self, x):
        return (self.conv(x) + self.shortcut(x)).relu().mean((2, 3))


def test_onnx_has_padded_shortcuts_as_convolutions_and_the_program_has_not(tmp_path):
    block = Widening().eval()
    task = SimpleNamespace(config=SimpleNamespace(task=None))
    subject = SimpleNamespace(example=Inputs.of(torch.randn(2, 3, 6, 6)), task=task)
    signature = write_forms(block, subject, tmp_path, ("pt2", "onnx"))
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Conv") == 2
    assert not {"Slice", "Pad", "Gather"} & set(operators)
    program = torch.export.load(tmp_path / "model.pt2")
    assert sum("conv" in str(node.target) for node in program.graph.nodes if node.op == "call_function") == 1
    images = torch.randn(5, 3, 6, 6)
    for run in open_forms(tmp_path, signature).values():
        torch.testing.assert_close(run(Inputs.of(images))[0], block(images).detach(), rtol=1e-5, atol=1e-5)


def test_shortcuts_without_channels_stay_as_they_are():
    block = Widening()
    assert convolve_shortcuts(block.conv) is block.conv
    block.shortcut.keep_in(torch.tensor([], dtype=torch.long))
    assert convolve_shortcuts(block) is block


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(2, -1)


@pytest.mark.parametrize("network", [Branching(), FixedBatch()])
def test_networks_that_cannot_be_captured_are_named(network):
    with pytest.raises(UserError, match=r"torch.export cannot capture this network .*leave pt2 and onnx out"):
        capture_program(network, torch.ones(2, 3, 4, 4))


class CountedBatch(nn.Module):
    def forward(self, x):
        return x.flatten(1) * torch.ones(len(x), 1)


def test_a_network_that_counts_its_batch_is_captured_by_its_code():
    program = capture_program(CountedBatch(), torch.ones(2, 3, 4, 4))
    images = torch.randn(5, 3, 4, 4)
    assert torch.equal(program.module()(images), images.flatten(1))


def test_disagreement_is_relative_to_the_largest_output():
    images = torch.arange(1.0, 11.0).view(10, 1, 1, 1)
    network = nn.Flatten()
    trial = list(trial_batches(Inputs.of(images)))
    assert torch.equal(torch.cat([batch.only_tensor for batch in trial]), images)
    assert len({len(batch) for batch in trial}) > 1
    off = output_difference(lambda batch: [batch(network) + 0.5], network, Inputs.of(images))
    assert off == pytest.approx(0.5)  # the batch of one, whose only output is 1, is off by half of it
    assert output_difference(lambda batch: [batch(network)], network, Inputs.of(images)) == 0.0


@pytest.mark.parametrize(("difference", "fits"), [(0.0, True), (9.9e-5, True), (2e-4, False), (float("nan"), False)])
def test_a_form_that_computes_something_else_is_refused(difference, fits):
    if fits:
        check_agreement("model.onnx", difference)
        return
    with pytest.raises(UserError, match=r"model.onnx differs from the fine-tuned network by"):
        check_agreement("model.onnx", difference)


def test_formats_are_checked_and_ordered():
    assert EXPORT["formats"].read_value("onnx, config") == ("config", "onnx")
    with pytest.raises(UserError, match=r"formats 'config,onxx' will not do: .*'onnx', and 'onxx' is none"):
        EXPORT["formats"].read_value("config,onxx")
    with pytest.raises(UserError, match="names nothing"):
        EXPORT["formats"].read_value(" , ")


def test_missing_extras_are_named_with_what_to_install(monkeypatch):
    check_onnx()
    known = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else known(name))
    with pytest.raises(UserError, match=r"format onnx needs onnxscript: pip install .*, or leave onnx out"):
        check_onnx()
    with pytest.raises(UserError, match=r"a kit needs onnxscript: pip install -e '\.\[export\]'$"):
        check_onnx("a kit", instead="")


def test_flops_are_those_of_one_input_and_fused_attention_is_among_them():
    """Sixteen tokens of eight features; the position code is made once for all images."""

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.code = nn.Conv2d(3, 8, 2, 2), nn.Linear(2, 8)

        def forward(self, images):
            tokens = self.tokens(images).flatten(2).transpose(1, 2) + self.code(torch.ones(16, 2))
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)

    convolution, code, attention = 16 * 8 * 3 * 4, 16 * 2 * 8, 2 * 16 * 16 * 8
    assert count_flops(Attending().eval(), torch.randn(3, 3, 8, 8)) == convolution + code + attention
