"""The option-A shortcut: its arithmetic, its two sides pruned apart, and what torch-pruning sees of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from models.networks.catalog import build_network
from models.networks.shortcut import PadShortcut


class _Pruner(tp.BasePruningFunc):
    """What a dependency graph needs to know of a PadShortcut."""

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        layer.keep_out(torch.tensor([i for i in range(layer.out_channels) if i not in set(idxs)]))
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        layer.keep_in(torch.tensor([i for i in range(layer.in_channels) if i not in set(idxs)]))
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.in_channels


def _option_a(x: Tensor, new_channels: int) -> Tensor:
    """As the checkpoints' own network writes it."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new_channels // 2, new_channels // 2))


def test_fresh_is_option_a() -> None:
    x = torch.randn(2, 16, 9, 8)
    assert torch.equal(PadShortcut(16, 32, 2)(x), _option_a(x, 16))


def test_cannot_narrow() -> None:
    with pytest.raises(ValueError, match="cannot narrow 8 channels to 4"):
        PadShortcut(8, 4, 1)


def test_each_side_is_kept_on_its_own() -> None:
    x = torch.randn(2, 4, 6, 6)
    dense = _option_a(x, 4)
    shortcut = PadShortcut(4, 8, 2)
    shortcut.keep_out(torch.tensor([0, 2, 4, 5]))
    assert torch.equal(shortcut(x), dense[:, [0, 2, 4, 5]])
    shortcut.keep_in(torch.tensor([0, 3]))  # channel 2, which output 4 showed, is gone
    expected = dense[:, [0, 2, 4, 5]].clone()
    expected[:, 2] = 0
    assert torch.equal(shortcut(x[:, [0, 3]]), expected)
    assert (shortcut.in_channels, shortcut.out_channels) == (2, 4)
    shortcut.keep_out(torch.tensor([2]))  # nothing but zeros is left
    assert torch.equal(shortcut(x[:, [0, 3]]), torch.zeros(2, 1, 3, 3))


def test_order_of_the_two_sides_does_not_matter() -> None:
    outs, ins = torch.tensor([1, 3, 4, 7, 9]), torch.tensor([0, 2, 5])
    one, two = PadShortcut(6, 12, 1), PadShortcut(6, 12, 1)
    one.keep_out(outs)
    one.keep_in(ins)
    two.keep_in(ins)
    two.keep_out(outs)
    assert torch.equal(one.source, two.source)


def test_nothing_stored_copied_whole() -> None:
    shortcut = PadShortcut(4, 8, 2)
    shortcut.keep_in(torch.tensor([1, 2]))
    assert not shortcut.state_dict()
    twin = copy.deepcopy(shortcut)
    twin.keep_out(torch.tensor([3]))
    assert shortcut.out_channels == len(shortcut.source) == 8
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(twin(x), shortcut(x)[:, [3]])


def test_gradient_reaches_kept_inputs_only() -> None:
    shortcut = PadShortcut(4, 8, 1)
    shortcut.keep_out(torch.tensor([0, 3]))  # zeros, and input 1
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    shortcut(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum((0, 2, 3)).tolist() == [0, 4, 0, 0]


def test_exports() -> None:
    shortcut = PadShortcut(4, 8, 2).eval()
    shortcut.keep_in(torch.tensor([0, 2, 3]))
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(shortcut, (x,))
    assert torch.equal(program.module()(x), shortcut(x))


def test_residual_stages_are_separate_groups() -> None:
    network = build_network("resnet20", classes=10).eval()
    graph = tp.DependencyGraph().build_dependency(
        network, torch.randn(1, 3, 32, 32), customized_pruners={PadShortcut: _Pruner()}
    )
    names = {module: name for name, module in network.named_modules()}
    found = []
    for group in graph.get_all_groups(ignored_layers=[network.linear]):
        out = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        found.append({names[module] for module in out if isinstance(module, nn.Conv2d)})
    stages = [{f"layer{s}.{i}.conv2" for i in range(3)} | ({"conv1"} if s == 1 else set()) for s in (1, 2, 3)]
    inner = [{f"layer{s}.{i}.conv1"} for s in (1, 2, 3) for i in range(3)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, stages + inner))


def test_pruned_network_is_the_masked_one() -> None:
    """Removing stage-1 channels must equal silencing them: in their norms, and so in the shortcut to stage 2."""
    torch.manual_seed(0)
    network = build_network("resnet20", classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    masked = copy.deepcopy(network)
    gone = [0, 3, 5]
    with torch.no_grad():
        for norm in [masked.bn1, *(block.bn2 for block in masked.layer1)]:
            norm.weight[gone] = 0
            norm.bias[gone] = 0
    graph = tp.DependencyGraph().build_dependency(network, x, customized_pruners={PadShortcut: _Pruner()})
    graph.get_pruning_group(network.conv1, tp.prune_conv_out_channels, gone).prune()
    assert network.layer2[0].shortcut.in_channels == 13
    assert network.layer2[0].shortcut.out_channels == 32
    torch.testing.assert_close(network(x), masked(x), rtol=1e-4, atol=1e-4)
