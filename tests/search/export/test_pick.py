"""Which candidate a pick names, on tables written by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from models.errors import UserError
from models.task_config import TaskConfig
from search.candidate import Candidate
from search.export.finished_run import FinishedRun, read_run
from search.export.pick import pick_candidate
from search.recipe import Recipe
from search.results.run_tables import RunTables
from search.results.tables import CANDIDATE_TYPES, FINAL_TYPES
from search.settings.config import RunConfig

TASK = "task-of-tests"
SEARCHED = [("0.7", 700, 0.98), ("0.5", 500, 0.975), ("0.3", 300, 0.95), ("0.1", 100, 0.60)]
TESTED = {"0.7": (0.95, 0.97), "0.5": (0.97, 0.95), "0.3": (0.80, 0.99)}  # target -> accuracy of seeds 0 and 1


def config(**changes) -> RunConfig:
    return RunConfig(task=TaskConfig(network="small"), name="run", recipe=Recipe(epochs=2), **changes)


def candidate(target: str, seed: int | None, settings: RunConfig) -> Candidate:
    allocation = {"conv": {"ratio": float(target)}}
    if seed is None:
        return Candidate(method="l1", allocation=allocation, recipe=settings.recipe)
    return Candidate(method="l1", allocation=allocation, recipe=settings.final_recipe, seed=seed, judge="test")


def line(target: str, flops: int, accuracy: float, seed: int | None, settings: RunConfig) -> dict[str, object]:
    made = candidate(target, seed, settings)
    key = made.key(TASK)
    where = "score" if seed is None else "test_score"
    return {
        "candidate": key[:8],
        "key": key,
        "stage": "search" if seed is None else "final",
        "method": "l1",
        "strategy": "acra-uniform",
        "target": target,
        "seed": seed or 0,
        "status": "ok",
        where: accuracy,
        "flops": flops,
        "allocation": str(made.allocation),
    }


def run(finals: bool = True, **changes) -> FinishedRun:
    settings = config(**changes)
    lines = [line(*each, None, settings) for each in SEARCHED]
    front = pd.DataFrame(lines, columns=list(CANDIDATE_TYPES)).astype(CANDIDATE_TYPES)
    best = []
    for target, accuracies in TESTED.items() if finals else ():
        rows = [line(target, int(1000 * float(target)), a, seed, settings) for seed, a in enumerate(accuracies)]
        lines += rows
        best.append({**rows[0], "test_score": sum(accuracies) / len(accuracies), "seeds": len(accuracies)})
    table = pd.DataFrame(lines, columns=list(CANDIDATE_TYPES)).astype(CANDIDATE_TYPES)
    finalists = pd.DataFrame(best, columns=list(FINAL_TYPES)).astype(FINAL_TYPES)
    return FinishedRun(settings, TASK, {}, RunTables(table, front, finalists))


def test_best_has_the_highest_mean_and_takes_the_first_seed():
    found = pick_candidate(run(), "best")  # means: 0.96, 0.96, 0.895; the tie goes to fewer FLOPs
    assert str(found.target) == "0.5"
    assert found.candidate.seed == 0
    assert found.key == candidate("0.5", 0, config()).key(TASK)
    assert found.tested == {0: 0.97, 1: 0.95}


def test_smallest_is_a_finalist_not_any_candidate():
    assert str(pick_candidate(run(), "smallest").target) == "0.3"


def test_knee_lies_farthest_above_the_line_between_the_ends():
    flops, accuracy = [f for _, f, _ in SEARCHED], [a for _, _, a in SEARCHED]
    distances = {}
    for target, f, a in SEARCHED:  # distance from the chord, by its cross product
        x, y = (f - flops[-1]) / (flops[0] - flops[-1]), (a - accuracy[-1]) / (accuracy[0] - accuracy[-1])
        distances[target] = y - x
    assert max(distances, key=distances.get) == "0.3"
    assert str(pick_candidate(run(), "knee").target) == "0.3"


def test_a_searched_candidate_stands_for_the_finalist_that_it_became():
    searched = candidate("0.5", None, config()).key(TASK)
    found = pick_candidate(run(), searched[:6])
    assert found.key == candidate("0.5", 0, config()).key(TASK)
    assert found.tested == {0: 0.97, 1: 0.95}


def test_a_searched_candidate_that_became_no_finalist_gets_the_finalists_recipe():
    found = pick_candidate(run(), candidate("0.1", None, config()).key(TASK)[:10])
    assert found.candidate == candidate("0.1", 0, config())
    assert found.candidate.recipe.epochs == 6
    assert found.tested == {}


def test_a_named_seed_is_taken_as_it_is():
    wanted = candidate("0.3", 1, config())
    found = pick_candidate(run(), wanted.key(TASK))
    assert (found.candidate, found.key) == (wanted, wanted.key(TASK))


def test_a_fine_tune_of_its_own_is_another_candidate_and_distils():
    plain = Recipe(epochs=2, distill_weight=0)
    settings = config().model_copy(update={"recipe": plain})
    found = pick_candidate(FinishedRun(settings, TASK, {}, run().tables), "best", 40)
    assert found.candidate.recipe.epochs == 40
    assert found.candidate.recipe.distill_weight == Recipe().distill_weight
    assert found.key == found.candidate.key(TASK)
    assert found.tested == {}


def test_without_finalists_best_says_what_would_do():
    with pytest.raises(UserError, match=r"no finalist .* pick knee"):
        pick_candidate(run(finals=False), "best")


def test_failed_unknown_and_ambiguous_picks_are_refused():
    made = run()
    made.tables.candidates.loc[0, "status"], made.tables.candidates.loc[0, "reason"] = "failed", "the loss was nan"
    with pytest.raises(UserError, match=r"failed .the loss was nan"):
        pick_candidate(made, made.tables.candidates["key"][0])
    with pytest.raises(UserError, match="unknown pick 'bset'; did you mean best"):
        pick_candidate(made, "bset")
    made.tables.candidates["key"] = ["abc" + key for key in made.tables.candidates["key"]]
    with pytest.raises(UserError, match="'abc' fits 10 candidates"):
        pick_candidate(made, "abc")
    with pytest.raises(UserError, match="unknown pick ''"):
        pick_candidate(made, "")


def write(folder: Path, made: FinishedRun) -> None:
    folder.mkdir()
    body = {"config": made.config.model_dump(mode="json"), "fingerprint": TASK, "host": {"torch": "2"}}
    (folder / "run.json").write_text(json.dumps(body))
    made.tables.candidates.to_csv(folder / "candidates.csv", index=False)
    made.tables.front.to_csv(folder / "pareto.csv", index=False)
    made.tables.finals.to_csv(folder / "finalists.csv", index=False)


def test_a_run_is_read_back_from_its_folder(tmp_path):
    write(tmp_path / "run", run())
    read = read_run(tmp_path / "run")
    assert read.folder == tmp_path / "run"
    assert read.searched == len(SEARCHED)
    assert pick_candidate(read, "best") == pick_candidate(run(), "best")


def test_keys_that_look_like_numbers_stay_text(tmp_path):
    made = run()
    for table in (made.tables.candidates, made.tables.finals):
        table.loc[table["candidate"] == candidate("0.3", 0, config()).key(TASK)[:8], "candidate"] = "00123e45"
    write(tmp_path / "run", made)
    assert str(pick_candidate(read_run(tmp_path / "run"), "smallest").target) == "0.3"


def test_runs_that_are_absent_or_not_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    write(Path("results/digits-l1"), run())
    assert read_run("digits-l1").folder == Path("results/digits-l1")  # by its name alone
    with pytest.raises(UserError, match="unknown run 'digit-l1'; did you mean digits-l1"):
        read_run("digit-l1")
    Path("results/digits-l1/finalists.csv").unlink()
    with pytest.raises(UserError, match=r"finalists.csv is not there: .*--resume results/digits-l1"):
        read_run("digits-l1")
    Path("results/digits-l1/candidates.csv").write_text("candidate,key\n1,2\n")
    with pytest.raises(UserError, match=r"candidates.csv cannot be read"):
        read_run("digits-l1")
    Path("results/digits-l1/run.json").write_text('{"config": {"task"')
    with pytest.raises(UserError, match=r"run.json is damaged"):
        read_run("digits-l1")
