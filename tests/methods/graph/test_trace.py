"""The trace against torch's own FLOP counter, and what it must leave alone."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.graph.trace import LayerUse, trace_layers, uncounted_flops


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
    assert ours == sum(use.flops for use in uses.values())
    assert ours * 2 * 3 == counter.get_total_flops()  # torch counts 2 per multiply-accumulate, over a batch of 3
    assert uses["unused"] == LayerUse(0, 0, 0)
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


class Bare(nn.Module):
    """A functional convolution, a product with a bare matrix, tied linear layers, and attention from torch."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.matrix = nn.Parameter(torch.randn(8, 6))
        self.narrow, self.wide = nn.Linear(6, 6), nn.Linear(6, 6)
        self.wide.weight = self.narrow.weight
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = nn.functional.conv2d(x, self.kernel, stride=2).flatten(2).mT @ self.matrix
        tokens = self.wide(self.narrow(tokens))
        return torch.as_tensor(self.attention(tokens, tokens, tokens)[0])


def test_products_with_bare_weights_are_layers_of_their_own() -> None:
    network, example = Bare(), torch.randn(2, 3, 11, 9)
    uses = trace_layers(network, example)
    tokens = 5 * 4
    weights = {
        "kernel": 8 * 3 * 3 * 3,
        "matrix": 8 * 6,
        "narrow": 6 * 6,
        "wide": 6 * 6,
        "attention.in_proj_weight": 18 * 6,
        "attention.out_proj": 6 * 6,
    }
    assert uses == {name: LayerUse(tokens, 1, tokens * size) for name, size in weights.items()}
    assert list(uses) == list(weights)
    with FlopCounterMode(display=False) as counter:
        network(example[:1])  # in training mode, without the fast path, which torch does not count
    assert (
        2 * (sum(use.flops for use in uses.values()) + uncounted_flops(network, example)) == counter.get_total_flops()
    )
    assert uncounted_flops(network, example) == 2 * 6 * tokens**2


def test_a_fused_attention_block_is_counted_as_its_operators() -> None:
    network, example = Bare(), torch.randn(2, 3, 11, 9)
    training = trace_layers(network, example)
    assert trace_layers(network.eval().requires_grad_(False), example) == training
    assert torch.backends.mha.get_fastpath_enabled()
