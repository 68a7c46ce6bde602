"""Measured latency of what a search chose: where it is shown, against figures that are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_run import fake_run, with_tables
from test_tables import DENSE, final

from search import api
from search.allocation.targets import TargetTerm, parse_target
from search.engine.outcomes import RunOutcomes
from search.latency.check import FILE, CheckedLatency, read_latencies
from search.latency.predicted import FinalLatency, PredictedLatency, read_predictions
from search.latency.table import Say
from search.report.outputs import method_entries
from search.report.page import report_html
from search.results.metric_columns import name_columns
from search.results.tables import finals_frame


def checked(**changes: Any) -> CheckedLatency:
    """Dense 10 ms, compressed 6 ms, predicted to the point."""
    fields = {
        "engine": "torch", "device": "cpu (a chip)", "threads": 2, "batch": 1, "rounds": 20, "statistic": "least",
        "dense_ms": 10.0, "dense_spread_ms": 1.0, "compressed_ms": 6.0, "compressed_spread_ms": 1.0, "speed_up": 10 / 6,
        "theoretical": 2.0, "far_below": False, "predicted_ms": 6.0, "predicted_dense_ms": 10.0,
    }  # fmt: skip
    return CheckedLatency.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("predicted", "dense", "says", "silent"),
    [(6.0, 10.0, "+0%", "far off"), (6.8, 10.0, "+13%", "far off"), (5.2, 10.0, "-13%", "far off"),
     (7.0, 10.0, "+17%, far off: the layers' times", "machine"), (5.0, 10.0, "-17%, far off: the layers", "machine"),
     (9.0, 15.0, "+50%, far off, as for the dense network", "do not add up")],
)  # fmt: skip
def test_a_prediction_that_is_far_off_is_said_to_be(predicted: float, dense: float, says: str, silent: str) -> None:
    words = checked(predicted_ms=predicted, predicted_dense_ms=dense).figures_text()
    assert says in words
    assert silent not in words
    assert "measured 6 ms whole, kept 0.600" in words
    assert "dense 10 ms; cpu (a chip), torch, 2 threads, least of 20 rounds" in words


@pytest.mark.parametrize(
    ("asked", "over"),
    [("latency 0.6", ""), ("latency 0.7", ""), ("latency 0.5", "20.0%"), ("latency 2x", "20.0%"), ("latency 6ms", ""),
     ("latency 5ms", "20.0%"), ("latency 1s", "")],
)  # fmt: skip
def test_a_measurement_above_the_target_is_told(asked: str, over: str) -> None:
    (part,) = parse_target(asked).terms
    assert isinstance(part, TargetTerm)
    assert checked().excess_text(part) == (f"; {over} above what was asked" if over else "")


@pytest.mark.parametrize(
    ("asked", "over"),
    [("flops 0.3 + latency 0.7", ""), ("flops 0.9 + latency 0.5", "20.0%"), ("flops 0.3", ""),
     ("latency@phone 0.1", ""), ("latency 0.5 + latency@phone 0.9", "20.0%")],
)  # fmt: skip
def test_the_excess_is_that_over_the_latency_of_this_device(asked: str, over: str) -> None:
    words = FinalLatency(measured=checked()).figures_text({term.measure: term for term in parse_target(asked).terms})
    assert words == checked().figures_text() + (f"; {over} above what was asked" if over else "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": {"dense_ms": 1}}'])
def test_files_of_others_hold_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    assert read_latencies(path) == {}
    path.write_text(json.dumps({"key": checked().model_dump()}))
    assert read_latencies(path) == {"key": checked()}


def test_finalists_have_their_latency_beside_them() -> None:
    rows = [final(0, 0.85), final(1, 0.86), final(0, 0.9, strategy="other")]
    measured = {rows[0].key: FinalLatency(checked()), rows[1].key: FinalLatency(checked(compressed_ms=99.0))}
    first, second = finals_frame(rows, DENSE, measured).to_dict("records")
    assert (first["latency_ms"], first["dense_latency_ms"], first["predicted_latency_ms"]) == (6.0, 10.0, 6.0)
    assert first["latency_device"] == "cpu (a chip), torch, 2 threads, least of 20 rounds"
    assert pd.isna(second["latency_ms"])
    assert pd.isna(second["latency_device"])


def predicted(device: str, milliseconds: float) -> PredictedLatency:
    return PredictedLatency(device=device, where=f"chip of {device}", predicted_ms=milliseconds, dense_ms=10.0)


def test_predictions_for_devices_stand_beside_finalists_each_by_name() -> None:
    rows = [final(0, 0.85), final(0, 0.9, strategy="other")]
    latencies = {
        rows[0].key: FinalLatency(None, (predicted("phone", 6.0), predicted("server", 4.0))),
        rows[1].key: FinalLatency(None, (predicted("phone", 5.0),)),
    }
    table = finals_frame(rows, DENSE, latencies)
    first, second = table.to_dict("records")
    assert pd.isna(first["latency_ms"]), "nothing was measured"
    assert (first["predicted_latency_ms"], second["predicted_latency_ms"]) == (6.0, 5.0)
    assert first["latency_device"] == "phone (chip of phone), predicted"
    assert (first["predicted_latency_ms:phone"], first["predicted_latency_ms:server"]) == (6.0, 4.0)
    assert {"predicted_latency_ms:phone", "dense_latency_ms:server"} <= set(name_columns(table).columns)
    words = latencies[rows[0].key].figures_text({})
    assert "6 ms predicted on phone, kept 0.600; dense 10 ms; chip of phone" in words
    assert "4 ms predicted on server, kept 0.400" in words


def test_predictions_are_read_back_and_others_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "device_latency.json"
    for text in ("", "[]", '{"key": 1}', '{"key": [{"device": "phone"}]}'):
        path.write_text(text)
        assert read_predictions(path) == {}
    path.write_text(json.dumps({"key": [predicted("phone", 6.0).model_dump()]}))
    assert read_predictions(path) == {"key": (predicted("phone", 6.0),)}


def test_a_report_shows_it_where_it_was_measured() -> None:
    run = fake_run()
    assert "predicted,\u00a0ms" not in report_html(run)
    best = run.tables.best("0.5")
    assert best is not None
    finals = run.tables.finals.assign(
        latency_ms=6.25, dense_latency_ms=10.0, predicted_latency_ms=7.5, latency_device="<chip>"
    )
    html = report_html(
        replace(with_tables(run, finals=finals), latencies={best.record["candidate"]: "measured <6.25> ms"})
    )
    assert "predicted,\u00a0ms" in html
    assert ">7.5</td>" in html
    assert "&lt;chip&gt;" in html
    assert "measured &lt;6.25&gt; ms" in html


def test_a_leaderboard_shows_the_latencies_that_its_own_run_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_latencies(outcomes: RunOutcomes, say: Say) -> dict[str, FinalLatency]:
        entries = [entry for method in outcomes.methods for entry in method_entries(method)]
        latencies = {entry.key: checked() for entry in entries if entry.stage == "final"}
        fields = {key: latency.model_dump() for key, latency in latencies.items()}
        (outcomes.prepared.config.folder / FILE).write_text(json.dumps(fields))
        return {key: FinalLatency(latency) for key, latency in latencies.items()}

    monkeypatch.setattr("search.carry_out.final_latencies", write_latencies)
    run = api.search(
        results=tmp_path, name="run", strategy="acra-uniform", epochs=0, final_epochs=0, final_seeds=1, workers=0,
        device="cpu", show=False,
    )  # fmt: skip
    board = pd.read_csv(run.folder / "leaderboard.csv")
    assert board["latency_ms"].tolist() == run.finalists["latency_ms"].tolist() == [6.0]
