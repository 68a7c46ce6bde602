"""The trace against torch's own FLOP counter, and what it must leave alone."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.graph.trace import LayerUse, trace_layers, uses_attention


class Mixed(nn.Module):
    """Grouped, strided, dilated, transposed, shared, uncalled and token-wise layers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 1)
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=2, padding=2, dilation=(2, 1))
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.norm(self.stem(x)), training=True)  # draws random numbers even in evaluation
        x = self.up(self.twice(self.twice(x)))
        return self.head(x.flatten(2).transpose(1, 2))


def test_flops_match_torch_counter() -> None:
    network, example = Mixed(), torch.randn(3, 3, 17, 15)
    uses = trace_layers(network, example)
    with FlopCounterMode(display=False) as counter:
        network(example)
    weights = {name: module.weight.numel() for name, module in network.named_modules() if hasattr(module, "weight")}
    ours = sum(use.positions * weights[name] for name, use in uses.items())
    assert ours * 2 * 3 == counter.get_total_flops()  # torch counts 2 per multiply-accumulate, over a batch of 3
    assert uses["unused"] == LayerUse(0, 0)
    assert uses["twice"].calls == 2
    assert list(uses) == ["stem", "twice", "up", "head", "unused"]


def test_leaves_network_and_random_state_alone() -> None:
    network, example = Mixed(), torch.randn(2, 3, 17, 15)
    network.norm.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    trace_layers(network, example)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == [True, True, True, False, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


class _Attention(nn.Module):
    """Attention without any module of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(images).flatten(2).mT
        return torch.as_tensor(self.head((torch.softmax(tokens @ tokens.mT, 2) @ tokens).mean(1)))


def test_attention_is_seen_in_whatever_module_it_is() -> None:
    image = torch.randn(2, 3, 32, 32)
    assert uses_attention(_Attention(), image)
    encoder = nn.TransformerEncoderLayer(32, 2, 8, batch_first=True)
    assert uses_attention(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(1, 2), encoder), image)
    squeezed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1))
    assert not uses_attention(squeezed, image)
