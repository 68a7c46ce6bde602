"""Packed networks come back whole, whatever weights the network had that they are unpacked with."""

import itertools
import math

import pytest
import safetensors.torch
import torch
from torch import nn

from methods.base import example_input
from methods.registry import create, method_info, methods
from methods.tables.codebook import codebook_layers
from models.networks.catalog import build_network
from search.judge.packed_weights import pack_weights, unpack_weights

COMPOSED = ["l1+kse", "l1+kernel-clustering"]
CASES = [("small", name) for name in [*methods(), *COMPOSED]] + [
    ("resnet20", "l1"),
    ("resnet20", "resrep"),
    ("resnet20", "taylor"),
]


def bound(network: str, method: str, seed: int):
    torch.manual_seed(seed)
    channels, size = (1, 8) if network == "small" else (3, 16)
    dense = build_network(network, classes=10, channels=channels).eval()
    for parameter in dense.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    example = example_input((channels, size, size))
    compressor = create(method, dense, example)
    if compressor.info.needs_calibration:
        compressor.calibrate([(example, torch.zeros(2, dtype=torch.long))])
    return compressor


@pytest.mark.parametrize(("network", "method"), CASES)
def test_no_trace_of_the_dense_weights_is_needed(network, method):
    compressor, stranger = bound(network, method, 0), bound(network, method, 1)
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    tuned = compressor.compress(allocation)
    tuned = compressor.tuning(allocation, tuned, steps=0, lr=0.1).finish(tuned).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():  # as a fine-tune would; tables keep what 16 bits can hold
            parameter.copy_((parameter * 1.5).half())
    images = torch.randn(5, *compressor.example.shape[1:])
    rebuilt = unpack_weights(stranger, allocation, pack_weights(compressor, tuned))
    assert torch.equal(rebuilt(images), tuned(images))
    assert not torch.equal(tuned(images), compressor.network(images))
    assert any(parameter.requires_grad for parameter in rebuilt.parameters())


class OrderedChannels(nn.Module):
    """Channels take another order, and are scaled, by tensors that are no buffers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.order, self.scale = torch.tensor([7, 3, 5, 1, 0, 2, 6, 4]), torch.linspace(0.5, 2, 8)[:, None, None]

    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()[:, self.order] * self.scale).relu().mean((2, 3)))


@pytest.mark.parametrize("method", ["l1", "resrep", "l1+kse"])
def test_tensors_of_channels_that_are_no_buffers_are_stored(method):
    """The reader's weights, and so its scores, are others: it would keep other channels of them."""
    images = example_input((3, 16, 16))
    compressor = create(method, OrderedChannels().eval(), images)
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    small = compressor.compress(allocation)
    small = compressor.tuning(allocation, small, steps=0, lr=0.1).finish(small).eval()
    packed = pack_weights(compressor, small)
    reader = create(method, OrderedChannels().eval(), images)
    torch.testing.assert_close(unpack_weights(reader, allocation, packed)(images), small(images), rtol=0, atol=0)


def test_which_channels_a_padded_shortcut_passes_on_is_stored():
    compressor, stranger = bound("resnet20", "l1", 0), bound("resnet20", "l1", 1)
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    tuned = compressor.compress(allocation)
    packed = pack_weights(compressor, tuned)
    extra = [name for name in packed if name.startswith("buffer:")]
    assert len(extra) == 2  # one for each change of width
    without = unpack_weights(stranger, allocation, {name: t for name, t in packed.items() if name not in extra})
    images = torch.randn(5, 3, 16, 16)
    assert not torch.allclose(without(images), tuned(images), rtol=1e-3)


def wide_net() -> nn.Module:
    """Wide enough that names, shapes and bytes that are not full are a small part of its file."""
    torch.manual_seed(0)
    widths, layers = (3, 32, 96, 96), []
    for inputs, outputs in itertools.pairwise(widths):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        conv.weight.data *= torch.linspace(0.3, 2, inputs)[:, None, None]  # channels that differ to KSE
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)).eval()


def bits(values: int) -> int:
    return math.ceil(math.log2(values))


def table_bytes(layer) -> int:
    """What its indices take if each has ⌈log₂⌉ of as many bits as it has choices."""
    filters = layer.out_channels // layer.groups
    if layer.scale is not None:
        each = bits(len(layer.bank)) + (0 if layer.orders is None else bits(len(layer.orders)))
        return math.ceil(layer.index.numel() * each / 8)
    counts = layer.get_buffer("counts").tolist()
    kinds = set(counts)
    named = 8 + 32 * len(kinds) + len(counts) * bits(len(kinds))  # how many kernels every channel has
    return math.ceil((named + sum(filters * bits(q) for q in counts if 0 < q < filters)) / 8)


@pytest.mark.parametrize("method", [*methods(), *COMPOSED])
def test_the_file_is_as_large_as_predicted(method, tmp_path):
    """Up to two hundredths: without the header that names the tensors, and without the running statistics of batch
    norms, which are stored but are no parameters and not counted.
    """
    sizes = {"kernel-clustering.largest": 100, "kernel-clustering.transforms": 8}  # weakest: 7 bits, not all in use
    options = {option: value for name, value in sizes.items()
               for option in (name, name.partition(".")[2]) if option in method_info(method).options}  # fmt: skip
    network = wide_net()
    example = example_input((3, 8, 8))
    compressor = create(method, network, example, options)
    if compressor.info.needs_calibration:
        compressor.calibrate([(example, torch.zeros(2, dtype=torch.long))])
    for part in (99, 2):
        allocation = compressor.allocation([max(1, len(site.settings) // part) for site in compressor.sites])
        small = compressor.compress(allocation)
        small = compressor.tuning(allocation, small, steps=0, lr=0.1).finish(small).eval()
        tensors, path = pack_weights(compressor, small), tmp_path / f"{part}.safetensors"
        safetensors.torch.save_file(tensors, path)
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        statistics = sum(buffer.nbytes for layer in small.modules() if isinstance(layer, nn.BatchNorm2d)
                         for buffer in layer.buffers())  # fmt: skip
        predicted = compressor.cost_of(allocation).bytes
        assert abs(path.stat().st_size - header - statistics - predicted) <= 0.02 * predicted
        assert predicted < compressor.cost.dense.bytes
        tables = codebook_layers(small)
        assert bool(tables) != compressor.info.plain_layers
        assert {name: tensors[f"{name}.index"].nbytes for name in tables} == {
            name: table_bytes(layer) for name, layer in tables.items()
        }


@pytest.mark.parametrize("method", ["kse", "kernel-clustering", *COMPOSED])
def test_nothing_is_clustered_or_scored_to_read_a_file(method, monkeypatch):
    compressor = bound("small", method, 0)
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    tuned = compressor.compress(allocation).eval()
    tensors = pack_weights(compressor, tuned)

    def never(*_, **__):
        raise AssertionError("not needed to read a file")

    for place in ("kse.kse.kmeans", "kse.kse.channel_indicator", "clustering.kernel_clustering.fit_codebooks",
                  "clustering.kernel_clustering.recentre_clusters",
                  "filters.filter_pruning.filter_norms"):  # fmt: skip
        monkeypatch.setattr(f"methods.{place}", never)
    with pytest.raises(AssertionError, match="not needed"):
        bound("small", method, 1).compress(allocation)
    images = torch.randn(5, *compressor.example.shape[1:])
    assert torch.equal(unpack_weights(bound("small", method, 1), allocation, tensors)(images), tuned(images))


@pytest.mark.parametrize("method", ["l1", "kse", "kernel-clustering", "resrep"])
def test_layers_under_two_names_and_tied_weights_are_stored(method):
    torch.manual_seed(0)
    twice, tied = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    other = nn.Conv2d(8, 8, 3, padding=1)
    other.weight = tied.weight
    dense = nn.Sequential(nn.Conv2d(1, 8, 3), twice, nn.ReLU(), twice, tied, other, nn.Flatten(), nn.Linear(288, 4))
    example = example_input((1, 8, 8))
    compressor = create(method, dense.eval(), example)
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    small = compressor.compress(allocation)
    small = compressor.tuning(allocation, small, steps=0, lr=0.1).finish(small).eval()
    stored = safetensors.torch.load(safetensors.torch.save(pack_weights(compressor, small)))
    assert torch.equal(unpack_weights(compressor, allocation, stored)(example), small(example))
