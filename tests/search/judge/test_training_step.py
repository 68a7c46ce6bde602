"""Steps from buffers and recorded ones against plain ones; what no step may do on a GPU, for every method."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.base import Tuning
from methods.joint_tuning import JointTuning
from methods.registry import create, method_info, methods
from models.execution.host_reads import HostReads
from models.execution.operator_mode import OperatorMode
from models.tasks.classification import CLASSIFICATION, Classification
from models.tasks.outputs import Output
from search.judge.checkpoint import Checkpoint
from search.judge.stages import Stage, StageLoss
from search.judge.training_step import BufferedStep, Losses, PlainStep, RecordedStep, make_step
from search.recipe import Recipe

STEPS = 20
RECIPE = Recipe(batch_size=8, lr=0.05, distill_features=3.0)
CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]


def small_network() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))
    return nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def batches(count: int = STEPS, sizes: tuple[int, ...] = (8,)) -> list[Batch]:
    draw = torch.Generator().manual_seed(2)
    return [
        (torch.randn(size, 3, 8, 8, generator=draw), torch.randint(4, (size,), generator=draw))
        for size in (sizes * count)[:count]
    ]


class TwoRates(Tuning):
    """The last layer learns at a tenth of the rate and without weight decay."""

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        *first, last = network.children()
        return [
            {"params": [p for layer in first for p in layer.parameters()]},
            {"params": list(last.parameters()), "lr": RECIPE.lr / 10, "weight_decay": 0.0},
        ]


def step_of(kind: type[PlainStep], network: nn.Module, tuning: Tuning) -> PlainStep:
    dense = small_network().eval()
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, (Stage("2"), Stage("5"))))
    optimizer = torch.optim.SGD(
        tuning.parameter_groups(network), lr=RECIPE.lr, momentum=0.9, weight_decay=5e-4, nesterov=True,
        fused=kind is not PlainStep,
    )  # fmt: skip
    return kind(network, losses, tuning, optimizer, CPU)


def trained(kind: type[PlainStep], data: list[Batch]) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and losses after a fine-tune whose rate falls."""
    network = copy.deepcopy(small_network()).train()
    with torch.no_grad():
        network[0].weight.mul_(0.5)  # not the dense one's
    step = step_of(kind, network, TwoRates())
    losses = [float(step(batch, number, 1 - number / len(data))) for number, batch in enumerate(data)]
    return network.state_dict(), losses


def assert_alike(kind: type[PlainStep], data: list[Batch]) -> None:
    weights, losses = trained(kind, data)
    plain_weights, plain_losses = trained(PlainStep, data)
    torch.testing.assert_close(losses, plain_losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights, plain_weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 5)], ids=["equal batches", "a smaller batch now and then"])
def test_steps_from_buffers_are_plain_steps(sizes: tuple[int, ...]) -> None:
    assert_alike(BufferedStep, batches(sizes=sizes))


class OperatorGraph(OperatorMode):
    """A CUDA graph for the CPU: what is done as it records is undone, and each replay does it again without Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.undo: list[tuple[Tensor, Tensor]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        before = [(leaf, leaf.clone()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = func(*args, **kwargs)
        for leaf, value in before:
            if not torch.equal(leaf, value):
                self.undo.append((leaf, value))
        self.calls.append((func, args, kwargs, results))
        return results

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, results in self.calls:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            inputs = {leaf.untyped_storage().data_ptr() for leaf in given}
            with torch._C._AutoDispatchBelowAutograd():
                again = tree_leaves(func(*args, **kwargs))
            for result, new in zip(tree_leaves(results), again, strict=True):
                if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in inputs:
                    result.copy_(new)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[OperatorGraph]:
    """Streams that are none, and graphs of operators."""
    made: list[OperatorGraph] = []

    def make_graph() -> OperatorGraph:
        made.append(OperatorGraph())
        return made[-1]

    @contextmanager
    def record(graph: OperatorGraph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        try:
            with graph:
                yield
        finally:
            for tensor, value in reversed(graph.undo):
                tensor.data.copy_(value)

    class Stream:
        def __init__(self, device: Any = None) -> None: ...
        def wait_stream(self, other: Any) -> None: ...

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        yield

    for name, fake in {"CUDAGraph": make_graph, "graph": record, "Stream": Stream, "stream": on_stream,
                       "current_stream": Stream}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    return made


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 5)], ids=["equal batches", "a smaller batch now and then"])
def test_recorded_steps_are_plain_steps(graphs: list[OperatorGraph], sizes: tuple[int, ...]) -> None:
    assert_alike(RecordedStep, batches(sizes=sizes))
    (graph,) = graphs
    # Three are run first, so that kernels are chosen and momentum is there: 8 8 8, or 8 8 (5 8) 8. What differs from
    # the batch before does not count, so that of the second kind (5 8) is run once more.
    run = 5 if 5 in sizes else 3
    assert graph.replays == (sizes * STEPS)[:STEPS].count(8) - run


@pytest.mark.parametrize("kind", [BufferedStep, RecordedStep])
def test_steps_go_on_from_a_checkpoint(graphs: list[OperatorGraph], kind: type[PlainStep], tmp_path: Path) -> None:
    """The rate falls on: an optimizer whose state was loaded has copies of the tensors that it was made with."""
    data, half = batches(), STEPS // 2
    kept = Checkpoint(tmp_path / "half.safetensors")
    for part in (data[:half], data[half:]):
        network = small_network().train()
        step = step_of(kind, network, tuning := TwoRates())
        done = kept.load(network, step.optimizer, tuning, max_step=STEPS)
        for number, batch in enumerate(part, start=done):
            step(batch, number, 1 - number / STEPS)
        kept.save(half, network, step.optimizer, tuning)
    plain = small_network().train()
    plain_step = step_of(PlainStep, plain, TwoRates())
    for number, batch in enumerate(data):
        plain_step(batch, number, 1 - number / STEPS)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


class Penalised(nn.Module):
    """A network whose forward pass looks at a number, in training alone."""

    def __init__(self, look: Any) -> None:
        super().__init__()
        self.layers, self.look = small_network(), look

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.look(x)


LOOKS = {
    "aten::_local_scalar_dense": lambda x: 2.0 if x.mean().item() > -9 else 1.0,
    "aten::nonzero": lambda x: 1.0 if len(x.nonzero()) else 2.0,
    "aten::masked_select": lambda x: x.masked_select(x > 0).mean(),
    "aten::index": lambda x: x[x > 0].mean(),
    "aten::equal": lambda x: 2.0 if torch.equal(x, x + 1) else 1.0,
}


@pytest.mark.parametrize("operator", LOOKS)
def test_a_step_that_reads_a_number_is_not_recorded(graphs: list[OperatorGraph], operator: str) -> None:
    network = Penalised(LOOKS[operator]).train()
    dense = small_network().eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, ()))
    step = RecordedStep(network, losses, Tuning(), optimizer, CPU)
    for number, batch in enumerate(batches(6)):
        assert torch.isfinite(step(batch, number, 1.0))
    assert not graphs
    assert step.plain_because == f"it waits for the device in {operator}"


def test_what_cannot_be_recorded_goes_on_plainly(graphs: list[OperatorGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is read on the way behind all operators that HostReads knows: the recording fails."""
    monkeypatch.setattr(HostReads, "operators", property(lambda self: set(), lambda self, value: None), raising=False)
    network = Penalised(LOOKS["aten::_local_scalar_dense"]).train()
    twin = copy.deepcopy(network)
    dense = small_network().eval()

    def step_for(kind: type[PlainStep], trained_network: nn.Module) -> PlainStep:
        optimizer = torch.optim.SGD(trained_network.parameters(), lr=0.1, momentum=0.9, fused=True)
        losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, trained_network, ()))
        return kind(trained_network, losses, Tuning(), optimizer, CPU)

    step, plain = step_for(RecordedStep, network), step_for(PlainStep, twin)
    for number, batch in enumerate(batches(6)):
        step(batch, number, 1.0)
        plain(batch, number, 1.0)
    assert "not permitted when stream is capturing" in str(step.plain_because)
    torch.testing.assert_close(network.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: float(torch.rand(()))])
def test_a_step_that_draws_on_the_host_is_not_recorded(
    graphs: list[OperatorGraph], monkeypatch: pytest.MonkeyPatch, draw: Callable[[], float]
) -> None:
    monkeypatch.setattr(HostReads, "operators", property(lambda self: set(), lambda self, value: None), raising=False)
    network, dense = Penalised(lambda x: 1 + draw()).train(), small_network().eval()
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, ()))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    step = RecordedStep(network, losses, Tuning(), optimizer, CPU)
    for number, batch in enumerate(batches(6)):
        step(batch, number, 1.0)
    assert not graphs
    assert step.plain_because == "its code draws random numbers on the host"


class Named(Classification):
    """Of batches with a name."""

    def loss_and_outputs(self, network: nn.Module, batch: Any, **options: Any) -> tuple[Tensor, list[Output]]:
        return super().loss_and_outputs(network, batch[:2], **options)


@pytest.mark.parametrize(
    ("name", "recorded"), [(lambda number: "same", True), (str, False), (lambda number: number / 2, False)]
)
def test_batches_with_values_that_are_no_tensors(
    graphs: list[OperatorGraph], name: Callable[[int], object], recorded: bool
) -> None:
    """A graph has the values that it was recorded with; of a first batch of another size no more is seen."""
    network, plain = small_network().train(), small_network().train()
    odd = (torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2]))
    steps = []
    for kind, trained_network in ((RecordedStep, network), (PlainStep, plain)):
        dense = small_network().eval()
        losses = Losses(Named(), RECIPE, dense, StageLoss(dense, trained_network, ()))
        optimizer = torch.optim.SGD(trained_network.parameters(), lr=0.1, momentum=0.9, fused=True)
        steps.append(kind(trained_network, losses, Tuning(), optimizer, CPU))
        for number, batch in enumerate([odd, *batches(12)]):
            steps[-1]((*batch, name(number)), number, 1.0)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    assert (steps[0].plain_because is None) == recorded
    assert sum(graph.replays for graph in graphs) == (9 if recorded else 0)


def test_hooks_are_told() -> None:
    class Hooked(Tuning):
        def after_backward(self, network: nn.Module, step: int) -> None: ...

    assert not Tuning().has_hook
    assert not JointTuning({"a": Tuning(), "b": TwoRates()}).has_hook
    assert Hooked().has_hook
    assert JointTuning({"a": Tuning(), "b": Hooked()}).has_hook


def test_the_cpu_takes_plain_steps() -> None:
    network = small_network()
    losses = Losses(CLASSIFICATION, RECIPE, None, StageLoss(network, network, ()))
    step = make_step(network, losses, Tuning(), CPU)
    assert type(step) is PlainStep
    assert step.optimizer.defaults["lr"] == RECIPE.lr


def move_to_meta(network: nn.Module, moved: dict[int, Tensor]) -> None:
    """Parameters and buffers without values, on a device that is not the host's; tied ones stay tied."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    meta = tensor.detach().to("meta")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if is_parameter else meta
                if tensor is not None:
                    tensors[name] = moved[id(tensor)]


@pytest.mark.parametrize("name", [*methods(), "obs+tucker", "tucker-or-kse"])
def test_no_step_leaves_the_device(name: str) -> None:
    """On a device without values, what is made on the host is noted as a move, and what is read there fails."""
    dense = small_network().eval()
    compressor = create(name, dense, torch.randn(2, 3, 8, 8), {})
    if method_info(name).needs_calibration:
        compressor.calibrate(batches(2), CLASSIFICATION)
    levels = np.array([len(site.settings) // 2 for site in compressor.sites])
    allocation = compressor.allocation(levels)
    network = compressor.compress(allocation).train()
    tuning = compressor.tuning(allocation, network, steps=10, lr=0.01)
    groups, moved = tuning.parameter_groups(network), dict[int, Tensor]()
    for part in (network, dense):
        move_to_meta(part, moved)
    for group in groups:
        group["params"] = [moved[id(p)] for p in group["params"]]
    losses = Losses(CLASSIFICATION, RECIPE, dense, StageLoss(dense, network, (Stage("5"),)))
    # The hook of a method that has one may read numbers: its steps are not recorded.
    without_hook = Tuning() if tuning.has_hook else tuning
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    step = PlainStep(network, losses, without_hook, optimizer, CPU)  # the device decides about mixed precision alone
    inputs = torch.empty(8, 3, 8, 8, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    for number in range(2):
        with HostReads() as reads:
            loss = step(inputs, number, 1.0)
        assert not reads.operators
    tensors = [loss, *(p.grad for group in groups for p in group["params"]), *network.state_dict().values()]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}


def test_what_a_step_makes_on_the_host_is_seen() -> None:
    x = torch.empty(3, 4, device="meta")
    with HostReads() as reads:
        x * 2.0 + torch.tensor(1.0)  # numbers are arguments of kernels
    assert not reads.operators
    with HostReads() as reads:
        x.index_select(0, torch.tensor([0, 1]))
    assert reads.operators == {"aten::index_select"}
    with HostReads() as reads:
        torch.tensor([1.0, 2.0]).to("meta")
    assert reads.operators == {"aten::_to_copy"}
