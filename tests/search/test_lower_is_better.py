"""A metric of which less is better orders everything as its mirror image does, of which more is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import Chain, play_strategy, problem

from models.tasks.metric import Metric
from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome
from search.engine.rungs import Rungs, climb_rungs
from search.export.finished_run import FinishedRun
from search.export.pick import knee_of_front
from search.ranking import Sample, rank_numbers, rank_searched, rank_tested
from search.results.dense import Dense
from search.results.run_tables import RunTables
from search.results.tables import CandidateEntry
from search.settings.config import RunConfig
from search.strategies.contract import Program, Proposal
from search.strategies.registry import find_strategy
from search.strategies.sensitivity import damage_of

ERROR = Metric(name="MAE", unit="mm", lower_is_better=True)
MIRROR = Metric(name="gain", unit="mm")
NAMES = [("s", "m", str(place)) for place in range(30)]
ERRORS = st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 2.0]), min_size=1, max_size=8)


def outcomes_of(errors: Sequence[float], metric: Metric) -> list[Outcome]:
    return [
        Outcome(status="ok", metric=metric, metrics={metric.name: error if metric is ERROR else -error},
                flops=100 + place // 2, params=1, bytes=4, images=100, drift=1.0 + place)
        for place, error in enumerate(errors)
    ]  # fmt: skip


@given(ERRORS)
def test_searched_candidates(errors: list[float]) -> None:
    places = [
        [place.candidate for place in rank_searched(range(len(errors)), outcomes_of(errors, metric), NAMES)]
        for metric in (ERROR, MIRROR)
    ]  # fmt: skip
    assert places[0] == places[1] == sorted(range(len(errors)), key=lambda place: (errors[place], place))


@given(ERRORS, st.data())
def test_finalists_and_their_ranks(errors: list[float], data: st.DataObject) -> None:
    stds = [data.draw(st.sampled_from([None, 0.0, 0.1, 0.4])) for _ in errors]
    of_both = [
        [Sample(sign * error, std, 3, 100, 50.0, metric) for error, std in zip(errors, stds, strict=True)]
        for metric, sign in ((ERROR, 1), (MIRROR, -1))
    ]
    orders = [[place.candidate for place in rank_tested(range(len(errors)), samples, NAMES)] for samples in of_both]
    assert orders[0] == orders[1]
    assert [errors[place] for place in orders[0]] == sorted(errors)
    assert rank_numbers(of_both[0]) == rank_numbers(of_both[1])


def test_reasons_speak_of_the_lowest() -> None:
    ranked = rank_searched(range(2), [outcome.model_copy(update={"drift": None}) for outcome in
                                      outcomes_of([0.5, 0.25], ERROR)], NAMES[:2])  # fmt: skip
    assert [(place.candidate, place.reason) for place in ranked] == [
        (1, "lowest search MAE"), (0, "search MAE 0.25 mm above the best")]  # fmt: skip
    samples = [Sample(0.5, 0.0, 3, 100, 5.0, ERROR), Sample(0.25, 0.0, 3, 100, 5.0, ERROR)]
    assert [place.reason for place in rank_tested("ab", samples, NAMES[:2])] == [
        "lowest mean test MAE", "mean test MAE 0.25 mm above the best"]  # fmt: skip


def tables_of(errors: Sequence[float], metric: Metric) -> RunTables:
    dense = Dense(200, 1, 4, 0.1 if metric is ERROR else -0.1, None, metric)
    entries = [
        CandidateEntry(f"{place:020}", "search", "s", parse_target("0.5"), 100,
                       Candidate(method="m", allocation={"a": {"ratio": place / 100}}), outcome)
        for place, outcome in enumerate(outcomes_of(errors, metric))
    ]  # fmt: skip
    return RunTables.from_entries(entries, dense)


@settings(max_examples=30)
@given(ERRORS)
def test_fronts_answers_and_knees(errors: list[float]) -> None:
    lower, higher = (tables_of(errors, metric) for metric in (ERROR, MIRROR))
    assert list(lower.front["flops"]) == list(higher.front["flops"])
    points = {(100 + place // 2, error) for place, error in enumerate(errors)}
    unbeaten = {(x, y) for x, y in points if not any(a <= x and b <= y for a, b in points - {(x, y)})}
    assert list(zip(lower.front["flops"], lower.front["score"], strict=True)) == sorted(unbeaten)
    answers = [tables.best("0.5") for tables in (lower, higher)]
    assert answers[0].record["key"] == answers[1].record["key"]
    assert answers[0].score == min(errors)
    config = RunConfig.model_construct(name="x")
    knees = [knee_of_front(FinishedRun(config, "", {}, tables))["key"] for tables in (lower, higher)]
    assert knees[0] == knees[1]


def play(name: str, metric: Metric, rungs: bool) -> list[list[str]]:
    """The candidates that a strategy proposes, batch after batch, their errors given by a rule."""
    given = problem([64] * 5, Chain([64] * 5, [90, 50, 20, 60, 10, 5]), (0.5, 0.4), trials=12)
    program: Program = find_strategy(name)[1](given)
    if rungs:
        program = climb_rungs(program, Rungs((0.0, 0.5), reduction=3.0), lambda candidate: None)

    def outcome(levels: np.ndarray, proposal: Proposal) -> Outcome:
        error = float((levels / 64) ** 2 @ np.array([9, 1, 1, 0.2, 0.2]))
        return outcomes_of([error], metric)[0].model_copy(update={"epochs": proposal.candidate.until or 1.0})

    batches = play_strategy(given, program, outcome)
    return [[proposal.candidate.key("task") for proposal in batch] for batch in batches]


@pytest.mark.parametrize("rungs", [False, True])
@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_what_samplers_propose_and_rungs_let_go_on(name: str, rungs: bool) -> None:
    assert play(name, ERROR, rungs) == play(name, MIRROR, rungs)


def test_harm_of_a_site_is_relative_to_the_dense_score() -> None:
    """Of errors and gains alike; of percentages it is a difference of shares."""
    dense, harmed = outcomes_of([0.5, 0.75], ERROR)
    assert damage_of(harmed, dense) == (0.5, 1.0)  # half as much again; drift 2.0 - 1.0
    dense, harmed = outcomes_of([0.5, 0.75], MIRROR)
    assert damage_of(harmed, dense)[0] == 0.5
    shares = [Outcome(status="ok", accuracy=accuracy) for accuracy in (0.9, 0.6)]
    assert damage_of(shares[1], shares[0]) == pytest.approx((0.3, 0.3))  # no drift: the drop stands in for it


def test_a_metric_may_be_called_like_a_column(tmp_path: Path) -> None:
    """A metric `loss` beside the column of losses; tables come back as they were."""
    metric = Metric(name="loss", lower_is_better=True)
    tables = tables_of([0.5, 0.25], ERROR)
    tables = replace(tables, metric=metric, candidates=tables.candidates.assign(loss=[7.0, 8.0], device="cpu"))
    tables.write(tmp_path)
    named = pd.read_csv(tmp_path / "candidates.csv")
    assert (list(named["loss_score"]), list(named["loss"])) == ([0.5, 0.25], [7.0, 8.0])
    again = RunTables.read(tmp_path, "again", metric)
    pd.testing.assert_frame_equal(again.candidates, tables.candidates)
