"""The leaderboard: figures by hand, ranks against SciPy's own test, every format read back, and in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from board_fakes import DENSE, IMAGES, add_row, filled, final, judged
from chromium import Browser
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from models.errors import UserError
from search import api
from search.candidate import failed
from search.engine.standings import Standing, chosen, dense_of, family, keep, keep_dense, standings
from search.export.config import CONFIG, read_config
from search.latency.check import FILE
from search.leaderboard import text as leaderboard_text
from search.leaderboard.board import ONE_SEED, Board, find_tasks, read_boards
from search.leaderboard.page import front_figure, page_html
from search.leaderboard.reported import REPORTED, reported
from search.leaderboard.views import Filter, mean_ranks, select, sort
from search.ledger.ledger import Ledger, list_tasks
from search.ranking import LEVEL, Sample, bands, better, ranks, welch
from search.results.markup import latex
from search.results.tables import Dense, records
from search.strategies.contract import Proposal

TASK = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@pytest.fixture
def board(path: str, tmp_path: Path) -> Board:
    filled(path).close()
    return read_boards(path, [TASK], tmp_path)[0]


def row(board: Board, method: str, target: str) -> dict[str, object]:
    found = [line for line in records(board.frame) if (line["method"], line["target"]) == (method, target)]
    assert len(found) == 1
    return found[0]


def printed(path: str, results: Path, form: str, *, out: Path | None = None, **asked: Any) -> str:
    board = api.leaderboard(ledger=path, results=results, **asked)
    return board.text(form) if out is None else board.write(out, form).read_text()


# ---- ranks


samples = st.lists(st.integers(0, IMAGES), min_size=2, max_size=6).map(lambda right: [n / IMAGES for n in right])


def sample(accuracies: list[float]) -> Sample:
    std = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return Sample(statistics.fmean(accuracies), std, len(accuracies), IMAGES)


@given(samples, samples)
def test_better_is_what_welchs_test_says(one: list[float], other: list[float]) -> None:
    expected = ttest_ind(one, other, equal_var=False).pvalue if max(np.ptp(one), np.ptp(other)) > 0 else None
    if expected is None:
        expected = float(one[0] == other[0])
    assert welch(sample(one), sample(other)) == pytest.approx(expected, abs=1e-9)
    gap = np.mean(one) - np.mean(other)
    if abs(expected - LEVEL) > 1e-6 and abs(abs(gap) - 1 / IMAGES) > 1e-9:
        assert better(sample(one), sample(other)) == (gap > 1 / IMAGES and expected < LEVEL)


def test_ties_share_a_rank_and_leave_a_gap_behind() -> None:
    rows = [sample([0.90, 0.901, 0.902]), sample([0.95, 0.951, 0.952]), sample([0.9501, 0.9512, 0.9525]),
            sample([0.80, 0.801, 0.802])]  # fmt: skip
    assert ranks(rows) == [3, 1, 1, 4]


def test_one_seed_and_none_have_no_rank_and_push_nobody_down() -> None:
    assert ranks([sample([0.99]), None, sample([0.5, 0.51])]) == [None, None, 1]


def test_a_wide_spread_does_not_rank_before_a_higher_mean() -> None:
    first, second, third = sample([0.9926, 0.9942, 0.9910]), sample([0.9700, 0.9710]), sample([0.8756, 0.9072])
    assert better(first, second)
    assert not better(first, third)  # its two seeds are too far apart for that
    assert ranks([third, first, second]) == [2, 1, 2]


@given(st.lists(samples, max_size=8))
def test_ranks_rise_as_means_fall_and_start_at_one(rows: list[list[float]]) -> None:
    made = [sample(accuracies) for accuracies in rows]
    found = ranks(made)
    order = sorted(range(len(made)), key=lambda index: -made[index].mean)
    risen = [rank for index in order if (rank := found[index]) is not None]
    assert risen == sorted(risen)
    assert risen[:1] in ([], [1])


def test_one_image_is_no_difference_even_without_any_spread() -> None:
    one, other, third = (Sample(right / 360, 0.0, 3, 360) for right in (300, 299, 298))
    assert not better(one, other)
    assert better(one, third)


def test_bands_hold_targets_that_ask_for_the_same() -> None:
    assert bands([0.3, 0.5, 0.4985, 0.4717, 0.496], 0.005) == [0.3, 0.5, 0.5, 0.4717, 0.5]


# ---- rows


def test_figures_of_a_row(board: Board) -> None:
    line = row(board, "l1", "0.5")
    assert line["accuracy"] == pytest.approx(0.931)
    assert line["std"] == pytest.approx(0.001)
    assert line["n"] == 3
    assert line["delta_points"] == pytest.approx(-1.9)
    assert (line["kept_asked"], line["kept_flops"]) == (0.5, 0.498)
    assert (line["flops"], line["params"], line["bytes"], line["compression"]) == (498_000, 20_000, 64_000, 2.5)
    assert (line["searched"], line["search_seconds"], line["epochs"]) == (9, 41.5, 3)
    assert (line["dense_accuracy"], line["device"], line["run"]) == (0.95, "cpu", "some-run")
    assert pd.isna(line["latency_ms"])
    assert pd.isna(line["latency_device"])
    assert pd.isna(line["command"])  # its run's folder is not there


def test_ranks_within_each_target(board: Board) -> None:
    ranked = {(line["method"], line["target"]): line["rank"] for line in records(board.frame)}
    assert {who: rank for who, rank in ranked.items() if not pd.isna(rank)} == {
        ("kse", "0.5"): 1, ("l1", "0.5"): 2, ("fpgm", "0.5"): 2, ("l1", "0.3"): 1}  # fmt: skip
    assert list(board.frame["target"]) == ["0.5"] * 4 + ["0.3"] * 2


def test_what_a_reader_must_know_is_noted(board: Board) -> None:
    assert row(board, "taylor", "0.5")["note"] == ONE_SEED
    note = str(row(board, "l1", "0.3")["note"])
    assert "1 of 3 seeds failed: the loss is not finite" in note
    assert "below the target" in note
    refused = row(board, "kse", "0.3")
    assert refused["note"] == "target '0.3' is out of reach"
    assert pd.isna(refused["accuracy"])
    assert pd.isna(refused["searched"])
    assert pd.isna(row(board, "kse", "0.5")["note"])


def test_seeds_that_come_later_join_their_row(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        ledger.add(final("taylor", 0.5, seed=1), judged(0.997, 0.5))
    line = row(read_boards(path, [TASK], tmp_path)[0], "taylor", "0.5")
    assert line["accuracy"] == pytest.approx(0.998)
    assert (line["n"], line["rank"]) == (2, 1)


def test_a_candidate_that_two_strategies_chose_has_a_row_for_each(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        add_row(ledger, "kse", "0.5", (), strategy="lagrangian", searched=60)
    found = read_boards(path, [TASK], tmp_path)[0].frame
    both = found[(found["method"] == "kse") & (found["target"] == "0.5")]
    assert set(both["strategy"]) == {"acra-uniform", "lagrangian"}
    assert both["accuracy"].nunique() == 1
    assert set(both["searched"]) == {9, 60}


def test_a_reason_goes_once_there_is_an_answer(path: str) -> None:
    with filled(path) as ledger:
        assert any(standing.reason for standing in standings(ledger))
        add_row(ledger, "kse", "0.3", (0.9, 0.91))
        assert not any(standing.reason for standing in standings(ledger))


def test_the_dense_network_keeps_what_was_measured_once(path: str) -> None:
    with filled(path) as ledger:
        keep_dense(ledger, Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, None))
        assert dense_of(ledger) == Dense(DENSE.flops, DENSE.params, DENSE.bytes, 0.98, DENSE.test_accuracy)


def test_search_cost_counts_what_the_row_alone_took() -> None:
    def proposal(number: int, strategy: str, target: str | None, stage: str = "search") -> Proposal:
        return Proposal(final("l1", number / 100, judge="search"), stage, strategy, target)  # type: ignore[arg-type]

    asked = [proposal(1, "a", None, "scan"), proposal(2, "a", "0.5"), proposal(2, "a", "0.5"), proposal(3, "a", "0.3"),
             proposal(4, "b", "0.5")]  # fmt: skip
    seen = [(each, failed("x", seconds=2.0)) for each in asked]
    finals = [Proposal(final("l1", 0.02, seed), "final", "a", "0.5") for seed in range(3)]
    (standing,) = chosen(seen, finals, {"0.5": {"flops": 500_000}}, task=TASK, run="r")
    assert (standing.searched, standing.search_seconds) == (2, 4.0)
    assert standing.final == family(final("l1", 0.02), TASK)


def test_latency_comes_from_an_export_of_the_same_finalist(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        key = final("kse", 0.5).key(ledger.task)
    costs = {"flops": 1, "params": 1, "bytes": 1}
    timed = {"engine": "torch", "device": "cpu (a chip)", "threads": 2, "batch": 1, "rounds": 9, "dense_ms": 4.0,
             "dense_spread_ms": 0.1, "compressed_ms": 2.5, "compressed_spread_ms": 0.1, "speed_up": 1.6,
             "theoretical": 2.0, "far_below": False}  # fmt: skip
    metrics = {"test_accuracy": 0.9, "test_images": 9, "dense_test_accuracy": 0.9, "seed": 0, "seeds": [0],
               "mean": 0.9, "std": None, "n": 1, "executed_flops": 1,
               "latency": [{**timed, "batch": 64, "compressed_ms": 99.0}, timed]}  # fmt: skip
    config = {"version": 1, "task": {"network": "resnet56"}, "fingerprint": TASK, "method": "kse", "options": {},
              "allocation": {}, "cost": costs,
              "inputs": {"shape": [3, 8, 8], "classes": 10, "mean": [0.5] * 3, "std": [0.5] * 3},
              "dense": costs, "metrics": metrics, "recipe": {}, "seen": False, "files": {},
              "origin": {"run": "r", "candidate": key, "pick": "best", "strategy": "a", "target": "0.5",
                         "searched": 1}}  # fmt: skip
    folder = tmp_path / "some-run" / "export"
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config))
    read_config(folder)  # a whole one
    board = read_boards(path, [TASK], tmp_path)[0]
    line = row(board, "kse", "0.5")
    assert (line["latency_ms"], line["dense_latency_ms"]) == (2.5, 4.0)
    assert "cpu (a chip)" in str(line["latency_device"])
    assert board.frame["latency_ms"].notna().sum() == 1


def test_latency_comes_from_a_search_for_a_target_of_latency(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        key = final("kse", 0.5).key(ledger.task)
    timed = {"engine": "torch", "device": "cpu (a chip)", "threads": 1, "batch": 8, "rounds": 9, "statistic": "least",
             "dense_ms": 4.0, "dense_spread_ms": 0.1, "compressed_ms": 2.5, "compressed_spread_ms": 0.1,
             "speed_up": 1.6, "theoretical": 2.0, "far_below": False, "predicted_ms": 2.0,
             "predicted_dense_ms": 4.0}  # fmt: skip
    (tmp_path / "some-run").mkdir()
    (tmp_path / "some-run" / FILE).write_text(json.dumps({key: timed, "another": timed}))
    line = row(read_boards(path, [TASK], tmp_path)[0], "kse", "0.5")
    assert (line["latency_ms"], line["dense_latency_ms"]) == (2.5, 4.0)
    assert line["latency_device"] == "cpu (a chip), torch, 1 thread, batch 8, least of 9 rounds"
    assert "prediction of its latency is -20% off" in str(line["note"])


# ---- filters, order, tasks


def test_filters_keep_the_ranks_among_all(board: Board) -> None:
    (shown,) = select([board], Filter(methods=["l1"], targets=["2x"]))
    assert list(shown.frame["method"]) == ["l1"]
    assert list(shown.frame["rank"]) == [2]
    assert set(select([board], Filter(strategies=["lagrangian"]))[0].frame["method"]) == {"fpgm"}
    assert set(select([board], Filter(targets=["0.3M"]))[0].frame["target"]) == {"0.3"}


@pytest.mark.parametrize("column", ["accuracy", "-accuracy", "kept_flops"])
def test_sorting_puts_blanks_last(board: Board, column: str) -> None:
    values = sort(board.frame, column)[column.removeprefix("-")].tolist()
    known = [value for value in values if not pd.isna(value)]
    assert known == sorted(known, reverse=column.startswith("-"))
    assert all(pd.isna(value) for value in values[len(known) :])


def test_mean_ranks_over_tasks_by_hand(path: str, tmp_path: Path) -> None:
    filled(path).close()
    with Ledger(path, "ffff", "vgg16-cifar on cifar10") as second:
        keep_dense(second, DENSE)
        add_row(second, "l1", "0.5", (0.94, 0.941, 0.942))
        add_row(second, "kse", "0.5", (0.90, 0.901, 0.902))
    boards = read_boards(path, find_tasks(path, []), tmp_path)
    lines = {(line["method"], line["band"]): line for line in records(mean_ranks(boards))}
    assert lines["l1", 0.5]["mean_rank"] == 1.5  # 2 and 1
    assert lines["kse", 0.5]["mean_rank"] == 1.5  # 1 and 2
    assert pd.isna(lines["fpgm", 0.5]["mean_rank"])  # not in both
    assert lines["fpgm", 0.5]["resnet56 on cifar10"] == 2
    assert ("taylor", 0.5) not in lines  # ranked nowhere


def test_two_tasks_of_one_title_are_told_apart(path: str, tmp_path: Path) -> None:
    filled(path).close()
    filled(path, task="ffff0000ffff").close()
    with pytest.raises(UserError, match=r"2 tasks are called 'resnet56 on cifar10'; name one of 01234567, ffff0000"):
        find_tasks(path, ["resnet56 on cifar10"])
    assert find_tasks(path, ["ffff"]) == ["ffff0000ffff"]
    boards = read_boards(path, find_tasks(path, []), tmp_path)
    names = ["resnet56 on cifar10 [01234567]", "resnet56 on cifar10 [ffff0000]"]
    assert list(mean_ranks(boards).columns[6:]) == names
    text = printed(path, tmp_path, "table")
    assert all(f"rank, {name}" in text for name in names)


def test_mistakes_are_one_sentence(path: str, tmp_path: Path, board: Board) -> None:
    empty = str(tmp_path / "empty.db")
    Ledger(empty, TASK, "t").close()
    for call, words in (
        (lambda: find_tasks(str(tmp_path / "none.db"), []), "there is no ledger"),
        (lambda: find_tasks(empty, []), "holds no task yet"),
        (lambda: find_tasks(path, ["resnet65 on cifar10"]), "did you mean resnet56 on cifar10?"),
        (lambda: printed(path, tmp_path, "xls"), "unknown format 'xls'"),
        (lambda: printed(path, tmp_path, "csv", sort="acuracy"), "did you mean accuracy"),
        (lambda: printed(path, tmp_path, "csv", method=["ksee"]), "did you mean kse?"),
        (lambda: printed(path, tmp_path, "csv", target=["0.9"]), "no row is left"),
        (lambda: printed(path, tmp_path, "csv", target=["fast"]), "target 'fast' is not understood"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            call()


def test_a_task_without_finalists_says_so(path: str, tmp_path: Path) -> None:
    with Ledger(path, TASK, "t") as ledger:
        keep_dense(ledger, DENSE)
    with pytest.raises(UserError, match="has no finalist of t on the test set"):
        read_boards(path, list(list_tasks(path)), tmp_path)


# ---- formats


def test_csv_reads_back(path: str, tmp_path: Path, board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(printed(path, tmp_path, "csv"))))
    assert [line["row"] for line in lines] == list(board.frame["row"])
    assert [line["kind"] for line in lines] == ["measured"] * len(lines)
    best = lines[[line["method"] for line in lines].index("kse")]
    assert float(best["accuracy"]) == pytest.approx(0.942)
    assert (best["rank"], best["latency_ms"]) == ("1", "")


def test_json_reads_back(path: str, tmp_path: Path, board: Board) -> None:
    (task,) = json.loads(printed(path, tmp_path, "json"))["tasks"]
    assert task["dense"]["test_accuracy"] == DENSE.test_accuracy
    assert [line["row"] for line in task["rows"]] == list(board.frame["row"])
    refused = next(line for line in task["rows"] if line["note"] and "reach" in line["note"])
    assert refused["accuracy"] is None
    assert refused["rank"] is None


@pytest.mark.parametrize("form", ["table", "md", "tex"])
def test_every_row_is_in_the_text(path: str, tmp_path: Path, board: Board, form: str) -> None:
    text = printed(path, tmp_path, form)
    for line in records(board.frame):
        assert line["row"] in text
    spread = "$\\pm$" if form == "tex" else "±"
    assert f"94.20 {spread} 0.10 (3)" in text
    assert not re.search(r"\b(nan|NaN|None|<NA>)\b", text)


def test_markdown_tables_are_whole(path: str, tmp_path: Path) -> None:
    with filled(path) as ledger:
        add_row(ledger, "l1", "0.5", (0.92, 0.921), options={"a|b": "*"}, achieved=0.4991)
    rows = [line for line in printed(path, tmp_path, "md").splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in rows]
    assert len({len(line) for line in cells}) == 1
    assert sum(line.count("---") == len(cells[0]) for line in rows) == 2  # one a band


def test_latex_is_balanced_and_escaped(path: str, tmp_path: Path) -> None:
    assert latex("50 % of a_b & c\\d") == r"50 \% of a\_b \& c\textbackslash{}d"
    filled(path).close()
    text = printed(path, tmp_path, "tex", reported=True)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    for body in re.findall(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in body[1].splitlines():
            if line.endswith(r"\\"):
                assert len(re.split(r"(?<!\\)&", line)) == len(body[0])


def test_reported_rows_are_beside_and_never_ranked(path: str, tmp_path: Path, board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(printed(path, tmp_path, "csv", reported=True))))
    papers = [line for line in lines if line["kind"] == "reported"]
    assert len(papers) == sum(line.network == "resnet56" for line in REPORTED) > 0
    assert {line["rank"] for line in papers} == {""}
    assert all(line["source"] for line in papers)
    assert [line for line in lines if line["kind"] == "measured"] == lines[: len(board.frame)]
    assert "not ranked" in printed(path, tmp_path, "table", reported=True)
    assert "ResRep" not in printed(path, tmp_path, "table")


def test_reported_figures_follow_from_one_another() -> None:
    resrep = next(line for line in reported("resnet56 on cifar10") if line.method == "ResRep")
    assert resrep.delta_points == 0
    assert resrep.kept_flops == pytest.approx(1 / 2.12, abs=1e-3)  # the paper gives both
    assert reported("resnet56 on digits") == []
    assert all(line.accuracy is None or 0.5 < line.accuracy < 1 for line in REPORTED)
    assert all(line.reduction is None or 0 < line.reduction < 1 for line in REPORTED)


# ---- page


def test_the_page_tells_everything_and_refers_to_nothing(path: str, tmp_path: Path, board: Board) -> None:
    out = tmp_path / "board.html"
    printed(path, tmp_path, "html", out=out, reported=True)
    page = out.read_text()
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for line in records(board.frame):
        assert line["row"] in body
    assert "DepGraph" in body
    assert not re.search(r'(src|href)="(?!#)', body)


def test_names_on_the_page_cannot_act(path: str, tmp_path: Path) -> None:
    evil = "<script>document.title='owned'</script>"
    with filled(path, title=evil) as ledger:
        add_row(ledger, evil, "0.5", (0.9, 0.91), strategy=evil, run=evil)
        keep(ledger, [Standing(method=evil, strategy=evil, target=evil, target_flops=1, reason=evil)])
    assert evil not in page_html(read_boards(path, [TASK], tmp_path), created="now")


def test_the_picture_holds_every_tested_row_with_its_spread(board: Board) -> None:
    figure = front_figure(board)
    assert figure is not None
    drawn = {(row[0], round(x, 9), round(y, 9), round(bar, 9)) for trace in figure["data"] if "error_y" in trace
             for row, x, y, bar in zip(trace["customdata"], trace["x"], trace["y"], trace["error_y"]["array"],
                                       strict=True)}  # fmt: skip
    known = board.frame[board.frame["accuracy"].notna()].fillna({"std": 0.0})
    assert drawn == {(line["row"], round(100 * line["kept_flops"], 9), round(100 * line["accuracy"], 9),
                      round(100 * line["std"], 9)) for line in records(known)}  # fmt: skip


def test_json_and_text_agree(path: str, tmp_path: Path, board: Board) -> None:
    (task,) = leaderboard_text.as_json([board])["tasks"]
    text = printed(path, tmp_path, "table")
    for line in task["rows"]:
        if line["accuracy"] is not None:
            assert f"{100 * line['accuracy']:.2f}" in text


# ---- in a browser


@pytest.fixture
def page(path: str, tmp_path: Path) -> Path:
    filled(path).close()
    out = tmp_path / "board.html"
    printed(path, tmp_path, "html", out=out, reported=True)
    return out


COLUMN = """[...document.querySelectorAll("#board-0 th")].find(head => head.textContent.startsWith("Δ"))"""
ROWS = """[...document.querySelectorAll("#board-0 tbody tr")].map(row => row.cells[1].textContent)"""


@pytest.mark.browser
def test_a_click_on_a_column_head_sorts(page: Path, board: Board, tmp_path: Path) -> None:
    known = board.frame[board.frame["delta_points"].notna()]
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.run(ROWS) == list(board.frame["row"])
        for ascending in (True, False):
            browser.click(f"{COLUMN}.querySelector('button')")
            expected = list(known.sort_values("delta_points", ascending=ascending)["row"])
            assert browser.run(ROWS)[: len(expected)] == expected
            assert browser.run(f"{COLUMN}.ariaSort") == ("ascending" if ascending else "descending")
        assert browser.log == []


@pytest.mark.browser
def test_the_fronts_are_drawn_with_error_bars(page: Path, board: Board, tmp_path: Path) -> None:
    judged = int(board.frame["accuracy"].notna().sum())
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        count = "document.querySelectorAll('#fronts-plot-0 {}').length"
        assert browser.run(count.format(".point")) == judged + 1  # the dense network is one
        assert browser.run(count.format(".errorbar .yerror")) == judged
        assert browser.run("performance.getEntriesByType('resource').length") == 0


@pytest.mark.browser
def test_the_page_fits_a_phone_and_paper(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", width=500) as browser:  # the least that Chromium opens
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0
        box = "document.querySelector('#fronts-plot-0 {}').getBoundingClientRect().{}"
        assert browser.run(box.format(".legend", "top")) >= browser.run(box.format(".xtitle", "bottom"))
        assert browser.pdf().startswith(b"%PDF")
