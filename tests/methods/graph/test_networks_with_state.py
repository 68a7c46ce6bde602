"""Networks whose code keeps state, writes into its input, or caches what it makes of its weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.registry import create
from models.errors import UserError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Two convolutions of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.b(self.a(images).relu()).relu().mean((2, 3)))


class WritesIntoImages(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sub_(0.1))


class KeepsFeatures(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None
        self.all: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        features = self.a(images).relu()
        if self.last is not None and self.last.shape == features.shape:
            features = features + self.last
        self.last = features.detach()
        self.all.append(self.last)
        return self.fc(self.b(features).relu().mean((2, 3)))


class FusesKernels(Chain):
    """RepVGG: two branches in training, one cached kernel in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = nn.Parameter(torch.randn(8, 8, 3, 3) / 9), nn.Parameter(torch.randn(8, 8, 1, 1) / 3)
        self.fused: Tensor | None = None

    def train(self, mode: bool = True) -> FusesKernels:
        self.fused = None
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        features = self.a(images).relu()
        if self.training:
            branches = F.conv2d(features, self.wide, padding=1) + F.conv2d(features, self.point)
        else:
            if self.fused is None:
                self.fused = (self.wide + F.pad(self.point, (1, 1, 1, 1))).detach()
            branches = F.conv2d(features, self.fused, padding=1)
        return self.fc(self.b(branches.relu()).relu().mean((2, 3)))


def test_the_example_stays_as_it_is_and_is_no_source_of_chance() -> None:
    images = IMAGES.clone()
    compressor = create("l1", WritesIntoImages().eval(), images)
    assert torch.equal(images, IMAGES)
    assert [site.name for site in compressor.sites] == ["a", "b"]


def test_neither_the_network_nor_a_narrowed_one_holds_features_of_a_trace() -> None:
    network = KeepsFeatures().eval()
    compressor = create("l1", network, IMAGES)
    assert [site.name for site in compressor.sites] == ["a", "b"]
    small = compressor.compress(compressor.allocation([3, 3]))
    for module in (network, small):
        assert module.last is None
        assert module.all == []


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_narrowed_network_has_no_cache_of_dense_weights(evaluated: bool) -> None:
    torch.manual_seed(0)
    network = FusesKernels().eval()
    if evaluated:
        network(IMAGES)
    compressor = create("l1", network, IMAGES)
    assert (network.fused is not None) == evaluated
    small = compressor.compress(compressor.allocation([3] * len(compressor.sites))).eval()
    outputs = small(IMAGES)
    assert small.fused.shape == (5, 5, 3, 3)
    torch.testing.assert_close(outputs, small.train()(IMAGES))
    torch.testing.assert_close(compressor.compress(compressor.allocation([3] * len(compressor.sites)))(IMAGES), outputs)


class FirstOfIntegers(Chain):
    """Its first parameter counts steps; the second one is complex."""

    def __init__(self) -> None:
        super().__init__()
        layers = dict(self.named_children())
        self._modules.clear()
        self.inner = nn.Module()
        self.inner.step = nn.Parameter(torch.zeros(1, dtype=torch.long), requires_grad=False)
        self.inner.phase = nn.Parameter(torch.randn(1, dtype=torch.cfloat))
        self._modules.update(layers)

    def forward(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(images) * self.inner.phase
        return super().forward(torch.fft.irfft2(spectrum, s=images.shape[-2:]))


class ComplexScores(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return torch.fft.fft(super().forward(images))


class SparseScores(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).to_sparse()


@pytest.mark.parametrize("kind", [FirstOfIntegers, ComplexScores, SparseScores])
def test_other_kinds_of_numbers_are_no_obstacle(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert [site.name for site in create("l1", kind().eval(), IMAGES).sites] == ["a", "b"]


class Classifies(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).argmax(1)


def test_whole_numbers_are_the_reason_where_they_show_nothing() -> None:
    network = Classifies().eval()
    nn.init.constant_(network.fc.bias, 0)
    network.fc.bias.data[1] = 100
    compressor = create("l1", network, IMAGES)
    assert not compressor.sites
    assert compressor.skipped["a"].startswith("the network returns whole numbers alone")


class ScriptedPart(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.b(self.part(self.a(images))).relu().mean((2, 3)))


def test_scripted_parts_keep_their_channels() -> None:
    compressor = create("l1", ScriptedPart().eval(), IMAGES)
    assert [site.name for site in compressor.sites] == ["b"]
    assert compressor.skipped["part.0.weight"] == "it is part of a TorchScript module"
    with pytest.raises(UserError, match="TorchScript"):
        create("l1", torch.jit.trace(Chain().eval(), IMAGES), IMAGES)


def test_traced_graphs_print_nothing_in_trials(capfd: pytest.CaptureFixture[str]) -> None:
    class Counted(Chain):
        """It asserts how many channels there are: the trial raises."""

        def forward(self, images: Tensor) -> Tensor:
            features = self.a(images).relu()
            torch._assert(features.shape[1] == 8, "eight channels were promised")
            return self.fc(self.b(features).relu().mean((2, 3)))

    compressor = create("l1", torch.fx.symbolic_trace(Counted().eval()), IMAGES)
    assert "does not run" in compressor.skipped["a"]
    assert "Traceback" not in capfd.readouterr().err
