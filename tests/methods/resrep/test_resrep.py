"""ResRep on small networks of every kind: exact folding, exact costs, widths reached."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from resrep_nets import NETWORKS, build_network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from methods.base import Allocation
from methods.registry import create
from methods.resrep.compactor import Compactor, find_compactors
from methods.resrep.resrep import Forgetting, ResRep
from models.errors import UserError

EXAMPLE = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bind_resrep(kind: str, **options: float) -> ResRep:
    compressor = create("resrep", build_network(kind), EXAMPLE, options)
    assert isinstance(compressor, ResRep)
    return compressor


def half_allocation(compressor: ResRep) -> Allocation:
    return compressor.allocation([site.channels // 2 for site in compressor.sites])


def fine_tune(tuning: Forgetting, network: nn.Module, steps: int, lr: float, one_cycle: bool = True) -> None:
    """A fine-tune on noise, as an evaluator does it."""
    optimizer = torch.optim.SGD(tuning.parameter_groups(network), lr, momentum=0.9, weight_decay=1e-3, nesterov=True)
    if one_cycle:
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, steps, cycle_momentum=False)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = torch.Generator().manual_seed(1)
    network.train()
    for step in range(steps):
        inputs = torch.randn(16, 3, 10, 10, generator=random)
        loss = F.cross_entropy(network(inputs), torch.randint(0, 5, (16,), generator=random))
        optimizer.zero_grad()
        loss.backward()
        tuning.after_backward(network, step)
        optimizer.step()
        schedule.step()
    network.eval()


def fine_tuned(
    compressor: ResRep, allocation: Allocation, steps: int = 60, lr: float = 0.02
) -> tuple[nn.Module, Forgetting]:
    network = compressor.compress(allocation)
    tuning = compressor.tuning(allocation, network, steps=steps, lr=lr)
    assert isinstance(tuning, Forgetting)
    fine_tune(tuning, network, steps, lr)
    return network, tuning


def count_flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(EXAMPLE[:1])
    return counter.get_total_flops() // 2  # torch counts two for a multiply-accumulate


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_compactors_change_nothing_at_the_start(kind: str) -> None:
    compressor = bind_resrep(kind)
    state = {name: tensor.clone() for name, tensor in compressor.network.state_dict().items()}
    for allocation in (Allocation({}), half_allocation(compressor)):
        wide = compressor.compress(allocation)
        assert find_compactors(wide)
        torch.testing.assert_close(wide(EXAMPLE), compressor.network(EXAMPLE))
    torch.manual_seed(1)
    for parameter in wide.parameters():
        parameter.normal_()
    assert all(torch.equal(state[name], tensor) for name, tensor in compressor.network.state_dict().items())


def test_every_site_of_the_small_networks_has_a_compactor() -> None:
    sites = {kind: [site.name for site in bind_resrep(kind).sites] for kind in NETWORKS}
    assert sites == {
        "plain": ["0.0", "1.0", "2", "4"],
        "residual": ["body.0.0", "body.1.first.0", "body.2.first.0", "body.2.second.0", "body.3.first.0"],
        "depthwise": ["body.0.0", "body.1.0", "body.3.0"],
        "joined": ["body.0", "body.1.conv", "body.2.conv"],
        "pointwise": ["body.0.0", "body.1.0", "body.2.0", "body.3.0"],
    }
    assert bind_resrep("plain").places["0.0"].norm == "0.1"
    assert bind_resrep("plain").places["2"].norm is None
    assert bind_resrep("joined").places["body.1.conv"].norm is None  # the norm behind it reads a concatenation


@pytest.mark.parametrize("kind", NETWORKS)
def test_folded_network_equals_the_one_with_compactors(kind: str) -> None:
    compressor = bind_resrep(kind)
    allocation = half_allocation(compressor)
    wide, tuning = fine_tuned(compressor, allocation)
    small = tuning.finish(wide)
    assert tuning.report()["rows_not_at_zero"] == 0
    assert find_compactors(wide)
    assert not find_compactors(small)
    with torch.no_grad():
        expected = wide(EXAMPLE)
        assert (small(EXAMPLE) - expected).abs().max() <= 1e-4 * max(1, float(expected.abs().max()))
    cost = compressor.cost_of(allocation)
    assert cost == (count_flops(small), sum(p.numel() for p in small.parameters()), 4 * cost.params)


@pytest.mark.parametrize("kind", NETWORKS)
def test_cost_of_any_allocation_is_that_of_the_folded_network(kind: str) -> None:
    compressor = bind_resrep(kind)
    random = np.random.default_rng(0)
    levels = [[int(random.integers(0, len(site.settings))) for site in compressor.sites] for _ in range(3)]
    levels += [[0] * len(compressor.sites), [len(site.settings) - 1 for site in compressor.sites]]
    costs = compressor.cost(np.array(levels))
    for row, chosen in enumerate(levels):
        allocation = compressor.allocation(chosen)
        wide = compressor.compress(allocation)
        small = compressor.tuning(allocation, wide, steps=0, lr=0.1).finish(wide)
        assert costs.flops[row] == count_flops(small)
        assert costs.params[row] == sum(parameter.numel() for parameter in small.parameters())
    assert compressor.cost_of(compressor.allocation([0] * len(compressor.sites))) == compressor.cost.dense


def test_dense_sites_keep_their_structure_when_learned() -> None:
    compressor = bind_resrep("residual")
    wide = compressor.compress(Allocation({}))
    tuning = compressor.learned(1.0, wide, steps=20, lr=0.02)
    fine_tune(tuning, wide, 20, 0.02)
    small = tuning.finish(wide)
    assert {name: tensor.shape for name, tensor in small.state_dict().items()} == {
        name: tensor.shape for name, tensor in compressor.network.state_dict().items()
    }
    with torch.no_grad():
        torch.testing.assert_close(small(EXAMPLE), wide(EXAMPLE), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("one_cycle", [True, False], ids=["one-cycle", "cosine"])
@pytest.mark.parametrize(("steps", "lr"), [(25, 0.1), (80, 0.003)])
def test_schedule_reaches_given_widths_in_time(steps: int, lr: float, one_cycle: bool) -> None:
    compressor = bind_resrep("residual")
    allocation = half_allocation(compressor)
    wide = compressor.compress(allocation)
    tuning = compressor.tuning(allocation, wide, steps=steps, lr=lr)
    assert isinstance(tuning, Forgetting)
    fine_tune(tuning, wide, steps, lr, one_cycle)
    gone = {name: int((compactor.row_norms() == 0).sum()) for name, compactor in find_compactors(wide).items()}
    assert gone == {site.name: site.channels // 2 for site in compressor.sites}
    small = tuning.finish(wide)
    report = tuning.report()
    assert (report["rows_forgotten"], report["rows_not_at_zero"]) == (sum(gone.values()), 0)
    assert tuning.learned_allocation() == allocation
    assert count_flops(small) == compressor.cost_of(allocation).flops


def test_rows_that_did_not_arrive_are_counted_and_go_all_the_same() -> None:
    compressor = bind_resrep("pointwise")
    allocation = half_allocation(compressor)
    wide = compressor.compress(allocation)
    tuning = compressor.tuning(allocation, wide, steps=1000, lr=0.02)
    assert isinstance(tuning, Forgetting)
    fine_tune(tuning, wide, 90, 0.02)  # stopped early
    rows = sum(site.channels // 2 for site in compressor.sites)
    small = tuning.finish(wide)
    norms = torch.cat([compactor.row_norms() for compactor in find_compactors(wide).values()])
    assert tuning.report()["rows_not_at_zero"] == rows - int((norms < 1e-5).sum()) > 0
    assert count_flops(small) == compressor.cost_of(allocation).flops


@pytest.mark.parametrize("kind", ["plain", "residual", "pointwise"])
def test_learned_widths_meet_the_target(kind: str) -> None:
    compressor = bind_resrep(kind)
    wide = compressor.compress(Allocation({}))
    tuning = compressor.learned(0.6, wide, steps=60, lr=0.02)
    assert isinstance(tuning, Forgetting)
    fine_tune(tuning, wide, 60, 0.02)
    small, report = tuning.finish(wide), tuning.report()
    allocation, dense = tuning.learned_allocation(), count_flops(compressor.network)
    assert allocation is not None
    assert report["rows_not_at_zero"] == 0
    assert count_flops(small) == compressor.cost_of(allocation).flops <= 0.6 * dense
    levels = compressor.levels(allocation)
    one_row = max(flops_without(compressor, levels) - count_flops(small))
    assert count_flops(small) + one_row > 0.6 * dense  # nothing was forgotten for nothing
    with torch.no_grad():
        torch.testing.assert_close(small(EXAMPLE), wide(EXAMPLE), atol=1e-4, rtol=1e-4)


def flops_without(compressor: ResRep, levels: np.ndarray) -> np.ndarray:
    """FLOPs with one row more at each site that lost any."""
    more = [levels - step for step in np.eye(len(levels), dtype=int) if (levels >= step).all()]
    return compressor.cost(np.array(more)).flops


def test_learning_leaves_streams_alone_unless_asked() -> None:
    streams = {"body.0.0", "body.2.second.0"}
    assert not streams & set(find_compactors(bind_resrep("residual").compress(Allocation({}))))
    compressor = bind_resrep("residual", streams=1)
    wide = compressor.compress(Allocation({}))
    assert streams <= set(find_compactors(wide))
    tuning = compressor.learned(0.1, wide, steps=0, lr=0.02)
    assert 0 < count_flops(tuning.finish(wide)) <= 0.1 * count_flops(compressor.network)
    inside = bind_resrep("residual")
    with pytest.raises(UserError, match=r"out of reach.*streams=1"):
        inside.learned(0.1, inside.compress(Allocation({})), steps=0, lr=0.02)


def test_without_training_the_smallest_filters_go() -> None:
    compressor = bind_resrep("plain")
    allocation = half_allocation(compressor)
    wide = compressor.compress(allocation)
    tuning = compressor.tuning(allocation, wide, steps=0, lr=0.1)
    for name, compactor in find_compactors(wide).items():
        sizes = compressor.network.get_submodule(name).weight.detach().abs().sum((1, 2, 3))
        smallest = sizes.argsort()[: len(sizes) // 2].sort().values
        assert torch.equal(torch.where(compactor.row_norms() == 0)[0], smallest)
    small = tuning.finish(wide)
    assert tuning.report()["rows_not_at_zero"] == sum(site.channels // 2 for site in compressor.sites)
    with torch.no_grad():
        torch.testing.assert_close(small(EXAMPLE), wide(EXAMPLE), atol=1e-5, rtol=1e-4)


def kept_filters(kind: str, steps: int) -> dict[str, set[int]]:
    """Rows that a budget of `steps` would leave, where those of the smaller half of the filters are a little longer."""
    compressor = bind_resrep(kind)
    allocation = half_allocation(compressor)
    wide = compressor.compress(allocation)
    for name, compactor in find_compactors(wide).items():
        sizes = compressor.network.get_submodule(name).weight.detach().abs().sum((1, 2, 3))
        with torch.no_grad():
            compactor.weight[sizes.argsort()[: len(sizes) // 2]] *= 1.001  # noise, but the only difference in norm
    tuning = compressor.tuning(allocation, wide, steps=steps, lr=0.02)
    assert isinstance(tuning, Forgetting)
    return {name: set(np.flatnonzero(~mask).tolist()) for name, (_, mask) in tuning.choose_rows(wide).items()}


def test_norms_that_have_hardly_parted_do_not_choose_the_rows_of_short_budgets() -> None:
    compressor = bind_resrep("plain")
    short, long = kept_filters("plain", 351), kept_filters("plain", 375_360)
    for name in short:
        sizes = compressor.network.get_submodule(name).weight.detach().abs().sum((1, 2, 3))
        smallest = set(sizes.argsort()[: len(sizes) // 2].tolist())
        assert not short[name] & smallest  # the small filters go, though their rows are a little longer
        assert smallest <= long[name]  # after the paper's steps the norm of the row decides


def test_compactors_have_their_own_optimizer_group() -> None:
    compressor = bind_resrep("depthwise")
    wide = compressor.compress(half_allocation(compressor))
    rest, compactors = compressor.tuning(half_allocation(compressor), wide, steps=100_000, lr=0.1).parameter_groups(
        wide
    )
    assert (compactors["momentum"], compactors["weight_decay"]) == (0.99, 0.0)
    assert compactors["lr"] == pytest.approx(0.1 * (100_000 / 375_360) ** 0.5)
    weights = [module.weight for module in wide.modules() if isinstance(module, Compactor)]
    assert {id(p) for p in compactors["params"]} == {id(p) for p in weights}
    together = [id(parameter) for parameter in rest["params"] + compactors["params"]]
    assert sorted(together) == sorted(id(parameter) for parameter in wide.parameters())


def test_same_seed_same_result() -> None:
    results = []
    for _ in range(2):
        compressor = bind_resrep("depthwise")
        wide, tuning = fine_tuned(compressor, half_allocation(compressor), steps=20)
        results.append(tuning.finish(wide).state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_packed_weights_come_back_bit_for_bit(kind: str) -> None:
    compressor = bind_resrep(kind)
    levels = [i % 2 * (site.channels // 2) for i, site in enumerate(compressor.sites)]  # every other site dense
    allocation = compressor.allocation(levels)
    wide = compressor.compress(allocation)
    small = compressor.tuning(allocation, wide, steps=0, lr=0.1).finish(wide).eval()
    again = compressor.unpack(allocation, compressor.pack(small)).eval()
    assert torch.equal(again(EXAMPLE), small(EXAMPLE))


def test_channels_that_cannot_be_silenced_are_left_dense_with_a_reason() -> None:
    class Shifted(nn.Module):
        """An activation that makes something of nothing, and a stream with a writer that has no norm."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 1)
            self.grouped, self.norm = nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(torch.sigmoid(self.a(x)))
            x = F.relu(x + self.c(F.relu(x)))
            return self.head(F.relu(self.norm(self.grouped(x))).mean((2, 3)))

    compressor = create("resrep", Shifted().eval(), EXAMPLE)
    assert compressor.sites == ()
    assert "silent" in compressor.skipped["a"]
    assert "balanced" in compressor.skipped["b"]
    assert "grouped Conv2d" in compressor.skipped["grouped"]
    assert compressor.cost_of(Allocation({})) == compressor.cost.dense


class TwoHeads(nn.Module):
    """A dictionary of outputs, one of which is made of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 6, 4, 2)
        self.near, self.far = nn.Conv1d(8, 2, 1), nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        x = torch.relu(self.stem(x))
        return {"near": self.near(x), "far": [self.far(torch.relu(self.up(x))), torch.randn(1, 1)]}


def test_networks_may_have_several_outputs() -> None:
    compressor = create("resrep", TwoHeads().eval(), torch.randn(2, 3, 12))
    assert {site.name: site.channels for site in compressor.sites} == {"stem": 8, "up": 6}
