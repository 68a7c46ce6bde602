"""Tables against hand-made entries, brute force and the standard library's own CSV reader."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tasks.metric import Metric
from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome, failed_outcome
from search.files.atomic import atomic_write
from search.results.csv_tables import write_csv
from search.results.dense import Dense
from search.results.tables import CandidateEntry, candidates_frame, finals_frame, pareto_front, short_ids

DENSE = Dense(flops=1000, params=200, bytes=800, search_score=0.95, test_score=0.9)


def entry(
    key: str = "k" * 20,
    stage: Any = "search",
    outcome: Outcome | None = None,
    strategy: str = "random",
    target: str = "0.5",
    **more: Any,
) -> CandidateEntry:
    judge = "test" if stage == "final" else "search"
    candidate = Candidate(**({"method": "l1", "allocation": {"a": {"ratio": 0.5}}, "judge": judge} | more))
    outcome = outcome or Outcome(status="ok", accuracy=0.8, loss=0.6, flops=498, params=100, bytes=320)
    return CandidateEntry(key, stage, strategy, parse_target(target), 500, candidate, outcome)


def test_a_line_says_what_was_measured_and_leaves_the_rest_blank() -> None:
    entries = [
        entry("aaaa" * 5),
        entry("bbbb" * 5, stage="final", seed=3),
        entry("cccc" * 5, outcome=failed_outcome("loss was NaN")),
    ]
    searched, final, broken = candidates_frame(entries, DENSE).to_dict("records")
    assert (searched["candidate"], searched["score"], searched["loss"]) == ("aaaaaaaa", 0.8, 0.6)
    assert (searched["kept_flops"], searched["kept_params"], searched["compression"]) == (0.498, 0.5, 2.5)
    assert pd.isna(searched["test_score"])
    assert pd.isna(searched["reason"])
    assert (final["test_score"], final["seed"], final["stage"]) == (0.8, 3, "final")
    assert pd.isna(final["score"])
    assert (broken["status"], broken["reason"]) == ("failed", "loss was NaN")
    assert all(pd.isna(broken[name]) for name in ("score", "loss", "flops", "kept_flops", "params", "compression"))
    assert json.loads(searched["allocation"]) == {"a": {"ratio": 0.5}}


def test_integers_stay_integers_beside_blanks() -> None:
    entries = [entry("a" * 20), entry("b" * 20, outcome=failed_outcome("out of memory"))]
    assert candidates_frame(entries, DENSE)["flops"].to_list() == [498, pd.NA]


def test_a_learned_allocation_is_shown_where_none_was_given() -> None:
    outcome = Outcome(status="ok", accuracy=0.8, allocation={"a": {"ratio": 0.25}})
    learned = entry(outcome=outcome, allocation={}, learned_target=0.5)
    assert json.loads(candidates_frame([learned], DENSE)["allocation"][0]) == {"a": {"ratio": 0.25}}


def test_no_rows_still_give_every_column() -> None:
    for make in (candidates_frame, finals_frame):
        empty, full = make([], DENSE), make([entry(), entry(stage="final")], DENSE)
        assert list(empty.columns) == list(full.columns)
        assert list(empty.dtypes) == list(full.dtypes)
        assert empty.empty
    assert pareto_front(candidates_frame([], DENSE)).empty


def test_short_ids_grow_until_they_differ() -> None:
    keys = ["0123456789aa", "0123456789bb", "ffff456789aa", "0123456789aa"]
    ids = short_ids(keys)
    assert set(ids) == set(keys)
    assert len(set(ids.values())) == 3
    assert ids["0123456789aa"] == "0123456789a"
    assert short_ids(["0123456789aa", "ffff"])["0123456789aa"] == "01234567"


# ---- front


def frame_of(points: list[tuple[int, float]], **columns: Any) -> pd.DataFrame:
    base = {"stage": "search", "status": "ok"} | columns
    return pd.DataFrame(points, columns=["flops", "score"]).assign(**base)


def brute_front(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Kept unless another one costs no more, is no worse, and differs: the definition, in quadratic time."""
    distinct = set(points)
    return sorted(p for p in distinct if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in distinct))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12).map(lambda n: n / 12)), max_size=30))
def test_front_equals_the_definition(points: list[tuple[int, float]]) -> None:
    front = pareto_front(frame_of(points))
    assert list(zip(front["flops"], front["score"], strict=True)) == brute_front(points)


@given(st.permutations([(1, 0.1), (2, 0.3), (3, 0.3), (3, 0.2), (5, 0.9), (5, 0.9)]))
def test_front_does_not_depend_on_order(points: list[tuple[int, float]]) -> None:
    assert pareto_front(frame_of(points))["flops"].to_list() == [1, 2, 5]


def test_front_leaves_out_finalists_failures_and_blanks() -> None:
    frame = pd.concat([frame_of([(9, 0.5)]), frame_of([(1, 0.9)], stage="final"), frame_of([(2, 0.9)], status="failed"),
                       frame_of([(3, math.nan)])])  # fmt: skip
    assert pareto_front(frame)["flops"].to_list() == [9]


def test_of_a_metric_that_should_be_low_the_front_is_below() -> None:
    """As that of the negative values."""
    points = [(1, 0.9), (2, 0.3), (3, 0.3), (3, 0.2), (5, 0.5)]
    error = Metric(name="MAE", lower_is_better=True)
    front = pareto_front(frame_of(points), error)
    assert list(zip(front["flops"], front["score"], strict=True)) == [(1, 0.9), (2, 0.3), (3, 0.2)]
    mirrored = pareto_front(frame_of([(flops, -value) for flops, value in points]))
    assert front["flops"].to_list() == mirrored["flops"].to_list()


# ---- finalists


def final(seed: int, accuracy: float, **more: Any) -> CandidateEntry:
    outcome = Outcome(status="ok", accuracy=accuracy, flops=498, params=100, bytes=320, epochs=4, seconds=10)
    return entry(f"{more.get('strategy', 'random')}{seed}".ljust(20, "0"), "final", outcome, seed=seed, **more)


def test_finals_mean_std_and_delta() -> None:
    accuracies = [0.85, 0.87, 0.86]
    entries = [final(seed, accuracy) for seed, accuracy in enumerate(accuracies)]
    (line,) = finals_frame(entries, DENSE).to_dict("records")
    assert (line["seeds"], line["failed"], line["candidate"]) == (3, 0, "random00")
    assert line["test_score"] == pytest.approx(statistics.mean(accuracies))
    assert line["test_std"] == pytest.approx(0.01)  # by hand: sqrt((0.01² + 0.01²) / 2)
    assert line["delta"] == pytest.approx(-0.04)
    assert (line["kept_asked"], line["kept_flops"], line["compression"]) == (0.5, 0.498, 2.5)
    assert (line["seconds"], line["epochs"]) == (30, 4)


def test_one_seed_has_no_spread_and_a_missing_dense_figure_gives_no_delta() -> None:
    dense = Dense(1000, 200, 800, None, None)
    (line,) = finals_frame([final(0, 0.85)], dense).to_dict("records")
    assert math.isnan(line["test_std"])
    assert math.isnan(line["delta"])
    assert line["test_score"] == 0.85


def test_failed_seeds_are_counted_not_averaged() -> None:
    bad = entry("f" * 20, "final", failed_outcome("out of memory", seconds=5), seed=9)
    (line,) = finals_frame([final(0, 0.8), bad], DENSE).to_dict("records")
    assert (line["seeds"], line["failed"], line["test_score"], line["seconds"]) == (1, 1, 0.8, 15)
    (lost,) = finals_frame([bad], DENSE).to_dict("records")
    assert (lost["seeds"], lost["failed"]) == (0, 1)
    assert pd.isna(lost["test_score"])
    assert pd.isna(lost["flops"])


def test_seeds_of_different_allocations_strategies_or_targets_are_not_averaged() -> None:
    entries = [final(0, 0.8), final(1, 0.7, allocation={"a": {"ratio": 0.9}}), final(0, 0.6, strategy="tpe"),
            final(0, 0.5, target="0.3")]  # fmt: skip
    assert finals_frame(entries, DENSE)["test_score"].to_list() == [0.8, 0.7, 0.6, 0.5]


def test_the_same_seed_twice_is_one_measurement() -> None:
    (line,) = finals_frame([final(0, 0.8), final(0, 0.8)], DENSE).to_dict("records")
    assert line["seeds"] == 1
    assert math.isnan(line["test_std"])


def test_search_cost_is_that_of_the_same_question() -> None:
    took = Outcome(status="ok", accuracy=0.5, seconds=7)
    other = {"allocation": {"a": {"ratio": 0.6}}}
    entries = [entry("1" * 20, outcome=took), entry("2" * 20, outcome=failed_outcome("NaN", seconds=2), **other),
            entry("4" * 20, "rung", Outcome(status="ok", seconds=1), until=0.5, **other),
            entry("3" * 20, outcome=took, strategy="tpe"), entry("1" * 20, outcome=took), final(0, 0.8)]  # fmt: skip
    (line,) = finals_frame(entries, DENSE).to_dict("records")
    assert (line["searched"], line["search_seconds"]) == (2, 10)


# ---- files


def test_csv_reads_back_as_written(tmp_path: Path) -> None:
    entries = [entry("a" * 20), entry("b" * 20, outcome=failed_outcome('said "no", twice\nand left'))]
    frame = candidates_frame(entries, DENSE)
    write_csv(frame, tmp_path / "run" / "candidates.csv")
    with (tmp_path / "run" / "candidates.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(frame.columns)
    assert (float(first["score"]), int(first["flops"]), first["reason"]) == (0.8, 498, "")
    assert (second["score"], second["flops"]) == ("", "")
    assert second["reason"] == 'said "no", twice\nand left'


def test_formulas_are_disarmed_and_negative_numbers_are_not_touched(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["=1+1", "@cmd", "-0.5", "+3", "-rm", "\t=1", "fine", None],
                          "number": [-1.5, -2.0, 3, 4, 5, 6, 7, -math.inf]})  # fmt: skip
    write_csv(frame, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["text"] for cell in cells] == ["'=1+1", "'@cmd", "-0.5", "+3", "'-rm", "'\t=1", "fine", ""]
    assert [float(cell["number"]) for cell in cells] == frame["number"].to_list()
    assert frame["text"][0] == "=1+1"  # the caller's table is left alone


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old\n")

    def broken(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, b"new")
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    atomic_write(tmp_path / "atomic", "é")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "atomic").read_bytes() == "é".encode()
