"""The judge of candidates on real digits: pure, repeatable, and blind to the test set while it searches."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.data.training_batches import TrainingBatches
from models.errors import UserError
from models.task_config import TaskConfig
from models.tasks.classification import CLASSIFICATION
from models.tasks.pictures import measure_accuracy
from search.candidate import Candidate
from search.judge.drift import Drift
from search.judge.evaluate import Evaluator
from search.judge.finetune import finetune, recalibrate
from search.recipe import Recipe

TASK = TaskConfig(network="small", data="digits", train_images=300)
RECIPE = Recipe(epochs=0.5, batch_size=32, lr=0.05, recalibration_images=128)
ALLOCATION = {"layer1.conv1": {"ratio": 0.5}, "conv3": {"ratio": 0.25}}


def candidate(**fields: object) -> Candidate:
    return Candidate(**{"method": "l1", "allocation": ALLOCATION, "recipe": RECIPE, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(TASK, device="cpu")


class Watched(TrainingBatches):
    """Images that remember whether anyone asked for a batch."""

    def __init__(self, images: object) -> None:
        self._images, self.asked = images, 0

    def __len__(self) -> int:
        return len(self._images)  # type: ignore[arg-type]

    @property
    def labels(self) -> Tensor:
        return self._images.labels  # type: ignore[attr-defined, no-any-return]

    def subset(self, indices: Tensor) -> Watched:
        self.asked += 1
        return self._images.subset(indices)  # type: ignore[attr-defined, no-any-return]

    def batches(self, *args: object, **options: object) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked += 1
        return self._images.batches(*args, **options)  # type: ignore[attr-defined, no-any-return]


def test_same_candidate_same_outcome(evaluator: Evaluator) -> None:
    first, second = evaluator(candidate(seed=3)), evaluator(candidate(seed=3))
    assert first.status == "ok"
    assert first.model_copy(update={"seconds": 0.0}) == second.model_copy(update={"seconds": 0.0})
    assert evaluator(candidate(seed=4)).loss != first.loss


def test_another_evaluator_agrees(evaluator: Evaluator) -> None:
    torch.manual_seed(99)
    other = Evaluator(TASK, device="cpu")
    assert other(candidate()).loss == evaluator(candidate()).loss


def test_order_does_not_matter(evaluator: Evaluator) -> None:
    alone = Evaluator(TASK, device="cpu")(candidate())
    evaluator(candidate(seed=8, method="random"))
    assert evaluator(candidate()).loss == alone.loss


@pytest.mark.parametrize("method", ["l1", "taylor"])
def test_the_dense_network_is_left_as_it_was(evaluator: Evaluator, method: str) -> None:
    network = evaluator.task.network
    before = copy.deepcopy(network.state_dict())
    evaluator(candidate(method=method))
    evaluator(candidate(method=method, judge="test"))
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_search_never_touches_test_images() -> None:
    evaluator = Evaluator(TASK, device="cpu")
    test, search, train = Watched(evaluator.task.test), Watched(evaluator.task.search), Watched(evaluator.task.train)
    evaluator.task.test, evaluator.task.search, evaluator.task.train = test, search, train  # type: ignore[assignment]
    for given in (candidate(), candidate(recipe=RECIPE.model_copy(update={"epochs": 0.0}), images=20),
                  candidate(method="taylor")):  # fmt: skip
        assert evaluator(given).status == "ok"
    assert (test.asked, train.asked) == (0, 0)
    asked = search.asked
    assert asked >= 3
    evaluator(candidate(judge="test"))
    assert (test.asked, search.asked) == (1, asked)
    assert train.asked >= 1


def test_nobody_is_tuned_on_the_images_that_judge_it() -> None:
    """The parts of the training set are disjoint, as pixels, not only as numbers."""
    evaluator = Evaluator(TASK, device="cpu")
    parts = []
    for images in (evaluator.task.tune, evaluator.task.search, evaluator.task.test):
        parts.append({x.numpy().tobytes() for inputs, _ in images.batches(64) for x in inputs})
    tune, search, test = parts
    assert len(tune) + len(search) == 300
    assert tune.isdisjoint(search)
    assert tune.isdisjoint(test)
    assert search.isdisjoint(test)


def test_cost_is_that_of_the_compressed_network(evaluator: Evaluator) -> None:
    given = candidate()
    outcome = evaluator(given)
    small = evaluator.compressor(given).compress(given.allocation)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(torch.randn(1, *evaluator.task.info.shape))
    assert outcome.flops == counter.get_total_flops() // 2
    assert outcome.params == sum(p.numel() for p in small.parameters())
    assert outcome.bytes == 4 * (outcome.params or 0)
    assert outcome.device == "cpu"
    assert outcome.epochs == 0.5
    assert outcome.seconds > 0


def test_zero_shot_dense_equals_the_dense_figures(evaluator: Evaluator) -> None:
    recipe = Recipe(epochs=0, recalibration_images=0)
    outcome = evaluator(candidate(allocation={}, recipe=recipe))
    dense = evaluator.dense("search")
    assert (outcome.score, outcome.loss) == (dense.metrics["accuracy"], pytest.approx(dense.loss))
    test = evaluator(candidate(allocation={}, recipe=recipe, judge="test"))
    assert test.score == evaluator.dense("test").metrics["accuracy"]
    assert test.images == len(evaluator.task.test)


@pytest.mark.parametrize("images", [1, 10, 10**9])
def test_judged_on_so_many_images(evaluator: Evaluator, images: int) -> None:
    outcome = evaluator(candidate(images=images, recipe=RECIPE.model_copy(update={"epochs": 0.0})))
    assert outcome.images == min(images, len(evaluator.task.search))
    assert outcome.score is not None
    assert (outcome.score * outcome.images) % 1 == pytest.approx(0, abs=1e-9)


def test_divergence_and_time_are_failed_outcomes() -> None:
    wild = Evaluator(TASK, device="cpu")(candidate(recipe=RECIPE.model_copy(update={"lr": 1e30, "epochs": 3.0})))
    assert wild.status == "failed"
    assert wild.score is None
    assert "loss" in str(wild.reason)
    late = Evaluator(TASK, device="cpu", time_limit=1e-9)(candidate())
    assert late.status == "failed"
    assert "time" in str(late.reason)
    assert late.seconds > 0


def test_unknown_sites_and_settings_are_refused(evaluator: Evaluator) -> None:
    with pytest.raises(ValueError, match=r"0\.123"):
        evaluator(candidate(allocation={"conv3": {"ratio": 0.123}}))
    with pytest.raises(UserError, match="did you mean"):
        evaluator(candidate(method="l11"))


def test_finalists_leave_their_weights(tmp_path: Path) -> None:
    evaluator = Evaluator(TASK, device="cpu", keep_weights=tmp_path / "weights")
    given = candidate(judge="test")
    outcome = evaluator(given)
    evaluator(candidate())
    (file,) = (tmp_path / "weights").iterdir()
    assert file.name == f"{given.key(evaluator.task.fingerprint)}.safetensors"
    with safe_open(file, "pt") as stored:
        assert Candidate.model_validate_json(stored.metadata()["candidate"]) == given
        allocation = json.loads(stored.metadata()["allocation"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    assert allocation == ALLOCATION
    compressor = evaluator.compressor(given)
    rebuilt = compressor.unpack(given.allocation, tensors)
    right = sum(int((rebuilt.eval()(x).argmax(1) == y).sum()) for x, y in evaluator.task.test.batches(100))
    assert right / len(evaluator.task.test) == outcome.score


def test_fine_tuning_helps(evaluator: Evaluator) -> None:
    """A whole epoch of real digits beats none; the network starts untrained."""
    none = evaluator(candidate(recipe=RECIPE.model_copy(update={"epochs": 0.0})))
    some = evaluator(candidate(recipe=RECIPE.model_copy(update={"epochs": 4.0, "distill_weight": 0.0})))
    assert (some.score or 0) > (none.score or 0) + 0.2


def test_drift_ranks_where_the_weights_may_have_seen_the_search_images() -> None:
    evaluator = Evaluator(TASK, device="cpu")
    fresh = evaluator(candidate())
    assert fresh.worth == fresh.score
    evaluator.task.seen = True
    remembered = evaluator(candidate())
    assert remembered.drift == fresh.drift
    assert remembered.worth == -float(fresh.drift or 0) < 0
    tested = evaluator(candidate(judge="test"))
    assert tested.drift is None
    assert tested.worth == tested.score


def test_an_untrained_network_drifts_from_the_dense_one_treated_likewise(evaluator: Evaluator) -> None:
    """New batch-norm statistics are not the compression's doing: without any, nothing drifts."""
    untrained = RECIPE.model_copy(update={"epochs": 0.0})
    nothing = evaluator(candidate(allocation={}, recipe=untrained))
    assert nothing.drift == pytest.approx(0, abs=1e-12)
    dense = copy.deepcopy(evaluator.task.network)
    recalibrate(dense, CLASSIFICATION, evaluator.task.tune, 128, seed=0)
    compressed = evaluator.compressor(candidate()).compress(candidate().allocation)
    recalibrate(compressed, CLASSIFICATION, evaluator.task.tune, 128, seed=0)
    expected = Drift(dense, CLASSIFICATION, evaluator.task.probes)(compressed)
    assert evaluator(candidate(recipe=untrained)).drift == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(
        Drift(evaluator.task.network, CLASSIFICATION, evaluator.task.probes)(compressed), rel=1e-3
    )


def test_batch_norm_is_measured_anew_behind_the_fine_tune_too(evaluator: Evaluator) -> None:
    """The stages one by one; without the last one the outcome is another."""
    task, own = evaluator.task, candidate(seed=5)
    network = evaluator.compressor(own).compress(own.allocation)
    recalibrate(network, CLASSIFICATION, task.tune, 128, seed=5)
    finetune(network, CLASSIFICATION, task.tune, RECIPE, seed=5, teacher=task.network)
    lagging = measure_accuracy(network, task.search)
    recalibrate(network, CLASSIFICATION, task.tune, 128, seed=5)
    outcome = evaluator(own)
    assert (outcome.score, outcome.loss) == pytest.approx(measure_accuracy(network, task.search)[:2], rel=1e-6)
    assert outcome.loss != pytest.approx(lagging[1], rel=1e-4)
