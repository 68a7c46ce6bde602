"""The page of a run: what it says, and that nothing in a name can act."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from fake_run import DENSE, TARGETS, fake_run, hostile_sites, with_tables, without_result
from page_reader import Reader

from search.report.page import RunView, report_html, write_report
from search.report.picture import write_picture
from search.results.dense import Dense
from search.results.run_tables import RunTables


def test_answers_come_from_the_finals(run: RunView) -> None:
    for asked, _ in TARGETS:
        best = run.tables.best(asked)
        rivals = run.tables.finals[run.tables.finals["target"] == asked]["test_score"]
        assert best is not None
        assert best.on_test
        assert best.score == max(rivals)
        assert f"{100 * best.score:.2f} ± " in Reader(report_html(run)).text


def test_without_finals_the_search_split_answers_and_is_named(run: RunView) -> None:
    searched = with_tables(run, finals=run.tables.finals[:0])
    best = searched.tables.best("0.5")
    assert best is not None
    assert not best.on_test
    at_half = run.tables.candidates[
        (run.tables.candidates["target"] == "0.5") & (run.tables.candidates["stage"] == "search")
    ]
    assert best.score == at_half["score"].max()
    assert "search split: it ranks, it is not a result" in Reader(report_html(searched)).text


@pytest.mark.parametrize(("gap", "std", "tied"), [(0.01, 0.002, False), (0.01, 0.02, True), (0.01, np.nan, False)])
def test_a_rival_inside_the_noise_is_named(run: RunView, gap: float, std: float, tied: bool) -> None:
    finals = run.tables.finals
    finals = finals[finals["target"] == "0.5"].assign(test_score=[0.9, 0.9 - gap], test_std=std)
    best = with_tables(run, finals=finals).tables.best("0.5")
    assert best is not None
    assert (best.rival is not None) == tied


def test_a_target_without_success_says_so(run: RunView) -> None:
    assert without_result(run).tables.best("0.5") is None
    text = Reader(report_html(without_result(run))).text
    assert text.count("No candidate succeeded.") == len(TARGETS)
    assert "out of memory" in text


def test_every_candidate_command_fact_and_skipped_layer_is_on_the_page(run: RunView) -> None:
    text = Reader(report_html(run)).text
    candidates = run.tables.candidates
    said = [*candidates["candidate"], run.command, run.resume_command, run.export_command, *run.facts.values(),
            *run.skipped, *run.skipped.values(), *candidates["reason"].dropna()]  # fmt: skip
    assert [thing for thing in said if thing not in text] == []


def test_missing_figures_are_blank(run: RunView) -> None:
    dense = Dense(DENSE.flops, DENSE.params, DENSE.bytes, None, None)
    finals = run.tables.finals.assign(test_std=np.nan, delta=np.nan)
    text = Reader(report_html(dataclasses.replace(with_tables(run, finals=finals), dense=dense))).text
    assert not re.search(r"\b(nan|NaN %|None|<NA>)\b", text)
    assert "points against dense" not in text


def test_an_export_is_offered_of_what_was_tested_or_else_of_the_front(run: RunView) -> None:
    tables = run.tables
    assert tables.export_pick == "best"
    stopped = dataclasses.replace(tables, finals=tables.finals[:0])
    assert stopped.export_pick == "knee"
    assert dataclasses.replace(stopped, front=tables.front[:0]).export_pick is None
    failed = tables.finals.assign(test_score=np.nan)
    assert dataclasses.replace(tables, finals=failed).export_pick is None


def test_an_empty_run_has_a_page_and_a_picture(tmp_path: Path) -> None:
    empty = RunView("nothing yet", "", "", "", "", {}, DENSE, RunTables.from_entries([], DENSE), targets=TARGETS)
    write_report(tmp_path / "report.html", empty)
    write_picture(tmp_path / "pareto.png", empty)
    assert Reader((tmp_path / "report.html").read_text()).text.count("No candidate succeeded.") == len(TARGETS)


def test_hostile_names_are_text(hostile: RunView) -> None:
    plain, page = Reader(report_html(fake_run(hostile_sites(), per_group=6))), Reader(report_html(hostile))
    assert page.tags == plain.tags
    assert not page.tags.keys() & {"img", "iframe", "link", "b", "i"}
    assert {name for _, name, _ in page.attributes} == {name for _, name, _ in plain.attributes}
    assert hostile.title in page.text


def test_the_page_refers_to_nothing_outside_itself(hostile: RunView) -> None:
    page = Reader(report_html(hostile))
    assert [found for found in page.attributes if found[1] in ("src", "srcset", "action")] == []
    assert all(value and value.startswith("#") for _, name, value in page.attributes if name == "href")
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy
