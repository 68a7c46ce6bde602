"""What networks have in common is computed once, and nothing comes out different: against computing it all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from coupled_nets import BUILDERS, chains
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import Allocation, Compressor, copy_network, example_input
from methods.registry import create
from models.networks.catalog import build_network
from models.task_config import TaskConfig
from models.tasks.load import load_task
from search.candidate import Candidate, Outcome
from search.judge import evaluate
from search.judge.cuts import Outline, Recorded
from search.judge.evaluate import Evaluator
from search.judge.prefix import Prefix
from search.recipe import ZERO_SHOT

TASK = TaskConfig(network="small", data="digits", train_images=300)


def images(count: int) -> list[Tensor]:
    return list(torch.randn(count, 4, *SHAPE, generator=torch.Generator().manual_seed(7)))


@torch.no_grad()
def measured(network: nn.Module) -> list[Tensor]:
    """As a scan does it: batch norm anew from two batches, then three others are looked at."""
    network.eval()
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
            norm.reset_running_stats()
            norm.train()
    batches = images(5)
    for batch in batches[:2]:
        network(batch)
    network.eval()
    return [network(batch) for batch in batches[2:]]


def scanned(compressor: Compressor) -> Iterator[Allocation]:
    """The dense network, every site alone at two levels, then sites one after the other around a compressed network."""
    sites = compressor.sites
    yield compressor.allocation([0] * len(sites))
    for index, site in enumerate(sites):
        for level in sorted({1, len(site.settings) - 1} - {0}):
            yield compressor.allocation([level if i == index else 0 for i in range(len(sites))])
    middle = [len(site.settings) // 2 for site in sites]
    yield compressor.allocation(middle)
    for index, site in enumerate(sites):
        for level in (0, len(site.settings) - 1):
            yield compressor.allocation([level if i == index else middle[i] for i in range(len(sites))])


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("method", ["l1", "kse"])
def test_outputs_are_the_same_to_the_bit(build: object, method: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build().eval()  # type: ignore[operator]
    compressor = create(method, network, example_input(SHAPE))
    prefix, used = Prefix(network, example_input(SHAPE)), 0
    before = copy_network(network).state_dict()
    for allocation in scanned(compressor):
        expected = measured(compressor.compress(allocation))
        small = compressor.compress(allocation)
        with prefix.sharing(small, "images"):
            got = measured(small)
        used += prefix.used is not None
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    if build in (chains.plain, chains.without_norm, chains.group_norm, chains.odd_kernels):
        assert used


def test_layers_before_the_change_are_not_computed_again() -> None:
    """ResNet-20's last site changes alone: what lies before is computed once."""
    network = build_network("resnet20", classes=10).eval()
    compressor = create("l1", network, example_input((3, 32, 32)))
    prefix, site = Prefix(network, example_input((3, 32, 32))), compressor.sites[-1]
    x, calls = torch.randn(2, 3, 32, 32), list[int]()
    for level in (1, 2, 3):
        small = compressor.compress(Allocation({site.name: site.settings[level]}))
        computed = 0

        def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            nonlocal computed
            computed += not bool(output.isnan().all())  # NaN stands in for the stem

        for name, layer in small.named_modules():
            if isinstance(layer, nn.Conv2d) and not name.startswith("layer3.2"):
                layer.register_forward_hook(count)
        with prefix.sharing(small, None), torch.no_grad():
            small(x)
        calls.append(computed)
    assert site.name.startswith("layer3.2")
    assert calls == [17, 0, 0]


def test_other_images_are_not_taken_for_the_same() -> None:
    network = chains.plain().eval()
    compressor = create("l1", network, example_input(SHAPE))
    prefix, site = Prefix(network, example_input(SHAPE)), compressor.sites[-1]
    small = compressor.compress(Allocation({site.name: site.settings[2]}))
    for calls, used in ((1, False), (1, True), (2, False), (2, True)):
        with prefix.sharing(small, calls):
            small(images(1)[0])
        assert (prefix.used is not None) is used
    prefix.free_memory()
    with prefix.sharing(small, 2):
        small(images(1)[0])
    assert not prefix.used


def test_what_follows_may_write_into_the_output_of_a_cut() -> None:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(n.c2(F.relu_(n.c1(x)).mul_(2))))

    network = Pieces(run, c1=conv(3, 8), c2=conv(8, 6), fc=nn.Linear(6, CLASSES)).eval()
    compressor = create("l1", network, example_input(SHAPE))
    prefix, site = Prefix(network, example_input(SHAPE)), compressor.sites[-1]
    outputs = []
    for _ in range(3):
        small = compressor.compress(Allocation({site.name: site.settings[2]}))
        with prefix.sharing(small, None):
            outputs.append(measured(small))
    assert prefix.used
    assert all(torch.equal(a, b) for one in outputs[1:] for a, b in zip(one, outputs[0], strict=True))


def candidate(allocation: dict[str, dict[str, float]], **fields: object) -> Candidate:
    recipe = ZERO_SHOT.model_copy(update={"recalibration_images": 128})
    return Candidate(**{"method": "l1", "allocation": allocation, "recipe": recipe, "images": 30, **fields})  # type: ignore[arg-type]


LATE = [candidate({"conv3": {"ratio": ratio}}) for ratio in (0.25, 0.5, 0.75)]


def figures(evaluator: Evaluator, candidates: list[Candidate]) -> list[object]:
    outcomes = [evaluator(each) for each in candidates]
    return [(outcome.status, outcome.score, outcome.loss, outcome.drift) for outcome in outcomes]


def test_the_judge_shares_and_says_the_same() -> None:
    alone = [figures(Evaluator(TASK, device="cpu"), [each])[0] for each in LATE]
    evaluator = Evaluator(TASK, device="cpu")
    assert figures(evaluator, LATE) == alone
    prefix = evaluator.prefix_of(LATE[0])
    assert prefix.used
    assert prefix.recorded_bytes
    evaluator(candidate({"conv3": {"ratio": 0.5}}, images=None))
    assert not prefix.recorded_bytes, "fine-tuning needs the memory"


def test_outputs_that_are_too_large_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = figures(Evaluator(TASK, device="cpu"), LATE)
    monkeypatch.setattr("search.judge.prefix.MAX_BYTES", 10_000)
    evaluator = Evaluator(TASK, device="cpu")
    assert figures(evaluator, LATE) == expected
    prefix = evaluator.prefix_of(LATE[0])
    assert not prefix.recorded_bytes
    assert not prefix.used


def test_a_cut_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the dense network did not look back where the compressed ones do."""
    expected = figures(Evaluator(TASK, device="cpu"), LATE)
    within = next(cut for cut in Outline(Evaluator(TASK, device="cpu").task.network, example_input((1, 28, 28)))
                  .candidates if cut.name == "layer2.bn1")  # fmt: skip
    monkeypatch.setattr(Outline, "last_cut", lambda *_: within)
    evaluator = Evaluator(TASK, device="cpu")
    assert figures(evaluator, LATE) == expected
    prefix = evaluator.prefix_of(LATE[0])
    assert prefix.retired


def test_an_error_within_is_not_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may be too short for what is kept: then nothing is, and the candidate is measured all the same."""
    expected = figures(Evaluator(TASK, device="cpu"), LATE)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    evaluator = Evaluator(TASK, device="cpu")
    monkeypatch.setattr(Recorded, "nbytes", property(full))
    assert figures(evaluator, LATE) == expected
    prefix = evaluator.prefix_of(LATE[0])
    assert prefix.retired
    assert not prefix.recorded_bytes


def test_errors_of_the_candidate_itself_are_raised() -> None:
    with pytest.raises(ValueError, match="ratio"):
        Evaluator(TASK, device="cpu")(candidate({"conv3": {"ratio": 7.0}}))


# --- networks for which it does not hold ---


def gated() -> nn.Module:
    """Looks at the stem's output again in a comparison, which no NaN gets through."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        start = n.c1(x)
        y = n.c3(F.relu(n.bn(n.c2(F.relu(start)))))
        bright = start.mean((1, 2, 3), keepdim=True) > n.threshold
        return n.fc(pool_mean(torch.where(bright, -5 * y, y)))

    net = Pieces(run, c1=conv(1, 8), c2=conv(8, 8), bn=nn.BatchNorm2d(8), c3=conv(8, 8), fc=nn.Linear(8, 10))
    net.register_buffer("threshold", torch.tensor(10.0))
    return net


def asserting() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        start = F.relu(n.c1(x))
        assert torch.isfinite(start).all(), "not finite"
        return n.fc(pool_mean(F.relu(n.c3(F.relu(n.c2(start))))))

    return Pieces(run, c1=conv(1, 8), c2=conv(8, 8), c3=conv(8, 8), fc=nn.Linear(8, 10))


def reads_statistics() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.bn(n.c1(x)))
        return n.fc(pool_mean(F.relu(n.c3(F.relu(n.c2(x)))))) * n.bn.running_mean.abs().sum()

    return Pieces(run, c1=conv(1, 8), bn=nn.BatchNorm2d(8), c2=conv(8, 8), c3=conv(8, 8), fc=nn.Linear(8, 10))


def hooked() -> nn.Module:
    """A hook changes what the cut returns: replayed, it would do so twice."""
    net = asserting()
    net.get_submodule("c2").register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return net


def patched() -> nn.Module:
    """A module whose forward pass is its own, not its class's."""
    net = reads_statistics()
    layer = net.get_submodule("c2")
    layer.forward = lambda x: 3 * type(layer).forward(layer, x)  # type: ignore[assignment]
    return net


def scripted() -> nn.Module:
    net = asserting()
    net.add_module("act", torch.jit.script(nn.ReLU()))
    net._run = lambda n, x: n.fc(pool_mean(n.c3(n.act(n.c2(n.act(n.c1(x)))))))
    return net


@pytest.mark.parametrize("build", [gated, asserting, reads_statistics, hooked, patched, scripted])
def test_the_first_use_is_held_against_a_plain_measurement(build: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build().eval()  # type: ignore[operator]
        network.get_submodule("c1").weight.data.mul_(4)
    if build is gated:  # never on the noise that cuts are tried on, often on real images
        starts: list[Tensor] = []
        handle = network.c1.register_forward_hook(lambda _m, _i, out: starts.append(out.mean((1, 2, 3))))
        images = Evaluator(TASK, device="cpu").task.search
        network(torch.cat([inputs for inputs, _ in images.batches(30)]))
        noise = network.c1(example_input((1, 8, 8))).mean((1, 2, 3)).max()
        handle.remove()
        network.threshold.fill_(max(float(noise.detach()) + 1e-3, float(starts[0].detach().median())))
    states = [dict(vars(module)).get("forward") for module in network.modules()]

    def judge_of() -> Evaluator:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "load_task", lambda *places: replace(load_task(*places), network=network))
            return Evaluator(TASK, device="cpu")

    late = [candidate({"c3": {"ratio": ratio}}, method="l1") for ratio in (0.25, 0.5, 0.75)]
    plain = judge_of()
    monkeypatch.setattr(plain, "prefix_of", lambda _: None)
    assert figures(judge_of(), late) == figures(plain, late)
    assert [vars(module).get("forward") for module in network.modules()] == states


def test_trust_costs_one_measurement_a_cut() -> None:
    evaluator, calls = Evaluator(TASK, device="cpu"), list[bool]()
    measure = evaluator.measure_outcome

    def counted(candidate: Candidate, **options: Any) -> Outcome:
        calls.append(options["prefix"] is not None)
        return measure(candidate, **options)

    evaluator.measure_outcome = counted  # type: ignore[method-assign, assignment]
    figures(evaluator, LATE)
    assert calls == [True, True, False, True]  # recorded, reused and made again without, reused


def test_one_method_alone_keeps_outputs() -> None:
    evaluator = Evaluator(TASK, device="cpu")
    for method in ("l1", "l2"):
        figures(evaluator, [each.model_copy(update={"method": method}) for each in LATE])
    for method, keeps in (("l2", True), ("l1", False)):  # in this order: asking for one frees the others
        prefix = evaluator.prefix_of(LATE[0].model_copy(update={"method": method}))
        assert prefix is not None
        assert bool(prefix.recorded_bytes) is keeps
