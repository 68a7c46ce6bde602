"""Engine, report, export, Python interface and leaderboard give one answer to "the best of a target"."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from models.task_config import TaskConfig
from search.allocation.targets import parse_target
from search.api import open_run
from search.candidate import Candidate, Outcome
from search.engine.finalists import best_candidates
from search.engine.standings import Standing, seedless_key, store_dense, store_standings
from search.export.finished_run import read_run
from search.export.pick import pick_candidate
from search.leaderboard.board import make_board
from search.ledger.ledger import Ledger
from search.recipe import Recipe
from search.results.best import Best, best_of_target
from search.results.csv_tables import write_csv
from search.results.dense import Dense
from search.results.run_tables import RunTables
from search.results.tables import CandidateEntry, candidates_frame, finals_frame, pareto_front
from search.settings.config import RunConfig
from search.strategies.contract import Proposal

TASK = "task-of-tests"
TARGET = "0.5"
DENSE = Dense(flops=1000, params=200, bytes=800, search_score=0.95, test_score=0.9)


def candidate(number: int, judge: str = "search", seed: int = 0) -> Candidate:
    """`number` tells allocations apart; a finalist has the recipe that an export would give it."""
    config = settings(Path())
    recipe = config.recipe if judge == "search" else config.final_recipe
    allocation = {"conv": {"ratio": number / 100}}
    return Candidate(method="l1", allocation=allocation, recipe=recipe, seed=seed, judge=judge)  # type: ignore[arg-type]


def settings(folder: Path) -> RunConfig:
    return RunConfig(task=TaskConfig(network="small"), name="run", results=str(folder), recipe=Recipe(epochs=2))


def searched_row(number: int, outcome: Outcome) -> CandidateEntry:
    return made_row(candidate(number), "search", outcome)


def final_rows(number: int, accuracies: Sequence[float], flops: int) -> list[CandidateEntry]:
    outcomes = [Outcome(status="ok", accuracy=accuracy, flops=flops, images=100) for accuracy in accuracies]
    return [made_row(candidate(number, "test", seed), "final", outcome) for seed, outcome in enumerate(outcomes)]


def made_row(made: Candidate, stage: str, outcome: Outcome) -> CandidateEntry:
    number = round(100 * made.allocation["conv"]["ratio"])  # type: ignore[operator]
    strategy = f"strategy{number % 2}"
    return CandidateEntry(made.key(TASK), stage, strategy, parse_target(TARGET), 500, made, outcome)  # type: ignore[arg-type]


def number_of(line: object) -> int:
    return round(100 * json.loads(line)["conv"]["ratio"])  # type: ignore[arg-type]


def answers(rows: Sequence[CandidateEntry], folder: Path) -> dict[str, int]:
    """Who asks -> the number of the allocation that is the answer; the tables go by way of their files."""
    frame, finals = candidates_frame(rows, DENSE), finals_frame(rows, DENSE)
    best = best_of_target(frame, finals, TARGET)
    assert best is not None
    run = folder / "run"
    run.mkdir()
    record = {"schema": 2, "config": settings(folder).model_dump(mode="json"), "fingerprint": TASK, "host": {}}
    (run / "run.json").write_text(json.dumps(record))
    RunTables(frame, pareto_front(frame), finals).write(run)
    picked = pick_candidate(read_run(run), TARGET)
    found = {
        "report": number_of(best.record["allocation"]),
        "export": number_of(json.dumps({"conv": {"ratio": picked.allocation["conv"]["ratio"]}})),
        "python": number_of(open_run(run).best.loc[TARGET, "allocation"]),
    }
    if best.on_test:
        found["leaderboard"] = first_on_the_leaderboard(rows, folder)
    else:
        seen = [(Proposal(row.candidate, "search", row.strategy, row.target), row.outcome) for row in rows]
        random.Random(0).shuffle(seen)
        found["finalists"] = round(100 * best_candidates(seen, 1)[0].candidate.allocation["conv"]["ratio"])  # type: ignore[operator]
    return found


def first_on_the_leaderboard(rows: Sequence[CandidateEntry], folder: Path) -> int:
    with Ledger(str(folder / "ledger.db"), TASK, "small on digits") as ledger:
        store_dense(ledger, DENSE)
        for row in rows:
            ledger.add(row.candidate, row.outcome)
        finals = {seedless_key(row.candidate, TASK): row for row in rows if row.stage == "final"}
        standings = {
            key: Standing(method="l1", strategy=row.strategy, target=TARGET, target_flops=500, final=key)
            for key, row in finals.items()
        }
        store_standings(ledger, standings.values())
        first = make_board(ledger, folder).frame["row"][0]
        (key,) = [key for key, standing in standings.items() if standing.row == first]
        return round(100 * finals[key].candidate.allocation["conv"]["ratio"])  # type: ignore[operator]


def test_a_tied_test_accuracy_goes_to_fewer_flops_everywhere(tmp_path: Path) -> None:
    rows = [*final_rows(30, (0.9, 0.8), 499), *final_rows(31, (0.8, 0.9), 490), *final_rows(32, (0.7, 0.9), 400)]
    assert answers(rows, tmp_path) == dict.fromkeys(("report", "export", "python", "leaderboard"), 31)


def test_without_finalists_drift_decides_within_one_standard_error_everywhere(tmp_path: Path) -> None:
    """100 images and 0.8: a standard error of 0.04."""
    figures = [(0.80, 0.30), (0.77, 0.10), (0.76, 0.20), (0.75, 0.01)]
    rows = [
        searched_row(30 + n, Outcome(status="ok", accuracy=accuracy, loss=1.0, drift=drift, images=100, flops=498))
        for n, (accuracy, drift) in enumerate(figures)
    ]
    assert answers(rows, tmp_path) == dict.fromkeys(("report", "export", "python", "finalists"), 31)


def test_where_weights_have_seen_the_split_drift_alone_decides_everywhere(tmp_path: Path) -> None:
    rows = [
        searched_row(30 + n, Outcome(status="ok", accuracy=accuracy, drift=drift, merit=-drift, images=100, flops=498))
        for n, (accuracy, drift) in enumerate([(0.99, 0.4), (0.5, 0.1), (0.98, 0.2)])
    ]
    assert answers(rows, tmp_path) == dict.fromkeys(("report", "export", "python", "finalists"), 31)


@pytest.mark.parametrize("seed", range(12))
def test_they_agree_on_figures_that_tie_often(seed: int, tmp_path: Path) -> None:
    """Accuracies in tenths, drifts of two values, costs of two: nearly every place is a tie."""
    rng = random.Random(seed)
    rows: list[CandidateEntry] = []
    for number in range(10, 18):
        figures = {"accuracy": rng.choice((0.7, 0.8)), "loss": rng.choice((0.5, 0.6)), "flops": rng.choice((490, 498))}
        if seed % 3 == 0:
            rows += final_rows(number, [rng.choice((0.7, 0.8)) for _ in range(3)], int(figures["flops"]))
        elif seed % 3 == 1:
            outcome = Outcome(status="ok", **figures, drift=rng.choice((0.1, 0.2)), images=rng.choice((4, 1000)))
            rows.append(searched_row(number, outcome))
        else:
            rows.append(searched_row(number, Outcome(status="ok", **figures, merit=rng.choice((-0.1, -0.2)))))
    assert len(set(answers(rows, tmp_path).values())) == 1


def test_the_reason_is_said() -> None:
    def best(rows: Sequence[CandidateEntry]) -> Best:
        answer = best_of_target(candidates_frame(rows, DENSE), finals_frame(rows, DENSE), TARGET)
        assert answer is not None
        return answer

    near = [Outcome(status="ok", accuracy=a, loss=1.0, drift=d, images=100) for a, d in ((0.8, 0.3), (0.77, 0.1))]
    reason = "least drift of the 2 within one standard error (4.00 points) of the highest search accuracy"
    assert best([searched_row(n, outcome) for n, outcome in enumerate(near, start=1)]).reason == reason
    assert best([searched_row(1, near[0])]).reason == "highest search accuracy"
    tied = [*final_rows(1, (0.8,), 400), *final_rows(2, (0.8,), 300), *final_rows(3, (0.7,), 200)]
    assert best(tied).reason == "highest mean test accuracy, of equals the smaller"
    assert best(tied[1:]).reason == "highest mean test accuracy"


def test_a_run_of_an_earlier_version_has_no_number_of_images(tmp_path: Path) -> None:
    """Its tables are read, and accuracy alone decides, as it did then."""
    outcomes = [Outcome(status="ok", accuracy=a, drift=d, images=100, flops=498) for a, d in ((0.8, 0.3), (0.77, 0.1))]
    rows = [searched_row(30 + n, outcome) for n, outcome in enumerate(outcomes)]
    assert answers(rows, tmp_path)["export"] == 31
    path = tmp_path / "run" / "candidates.csv"
    old = open_run(tmp_path / "run").table.drop(columns=["images", "merit"])
    write_csv(old, path)
    assert pick_candidate(read_run(tmp_path / "run"), TARGET).allocation["conv"]["ratio"] == 0.3
