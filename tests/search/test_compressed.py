"""Packed networks come back whole, whatever weights the network had that they are unpacked with."""

import pytest
import torch

from methods.base import example_input
from methods.registry import create, methods
from models.networks import build_network
from search.compressed import pack, unpack

CASES = [("small", name) for name in methods()] + [("resnet20", "l1"), ("resnet20", "resrep"), ("resnet20", "taylor")]


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
    rebuilt = unpack(stranger, allocation, pack(compressor, tuned))
    assert torch.equal(rebuilt(images), tuned(images))
    assert not torch.equal(tuned(images), compressor.network(images))
    assert any(parameter.requires_grad for parameter in rebuilt.parameters())


def test_which_channels_a_padded_shortcut_passes_on_is_stored():
    compressor, stranger = bound("resnet20", "l1", 0), bound("resnet20", "l1", 1)
    allocation = compressor.allocation([len(site.settings) // 2 for site in compressor.sites])
    tuned = compressor.compress(allocation)
    packed = pack(compressor, tuned)
    extra = [name for name in packed if name.startswith("buffer:")]
    assert len(extra) == 2  # one for each change of width
    without = unpack(stranger, allocation, {name: t for name, t in packed.items() if name not in extra})
    images = torch.randn(5, 3, 16, 16)
    assert not torch.allclose(without(images), tuned(images), rtol=1e-3)
