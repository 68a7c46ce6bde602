"""Made-up runs that look like real ones, for the tests of what a user sees."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome, failed_outcome
from search.report.page import RunView
from search.results.dense import Dense
from search.results.run_tables import RunTables
from search.results.tables import CandidateEntry

HOSTILE = [
    "<b>bold</b>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "a&amp;b &lt;i&gt; & \"quoted\" 'single'",
    "%{x} %{customdata[0]} $x^2$ {{braces}}",
    "javascript:alert(1)",
    "<a href='http://evil.example/'>link</a>",
    "名前.レイヤー.卷积\u202e",
    "line\nbreak\tand\x00null",
    "123",
    "features.transition2.very_long_block_name.with_many.submodules.inside.each_other.conv_depthwise_separable.0",
]
SITES = ["conv1", *(f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)), "layer3.skip", "head"]
DENSE = Dense(flops=40_813_184, params=272_474, bytes=1_089_896, search_score=0.9312, test_score=0.9173)
TARGETS = [("0.7", 28_569_228), ("0.5", 20_406_592), ("0.3", 12_243_955)]


def hostile_sites(count: int = 110) -> list[str]:
    names = HOSTILE + [f"backbone.stage{i // 20}.block{i % 20}.branch<{i}>.conv" for i in range(count)]
    return names[:count]


def fake_run(sites: Sequence[str] = SITES, per_group: int = 40, hostile: bool = False, **changes: Any) -> RunView:
    """Three targets × two strategies × `per_group` candidates, one in 25 failed, and finalists with three seeds."""
    rng = random.Random(0)
    mark = HOSTILE[1] if hostile else ""
    strategies = ["acra-uniform", "acra-sensitivity" + mark]
    rows = [
        _row(rng, sites, strategy, target, index, mark)
        for target in TARGETS
        for strategy in strategies
        for index in range(per_group)
    ]
    rows += [
        _final(rng, rows, strategy, target, seed) for target in TARGETS for strategy in strategies for seed in range(3)
    ]
    tables = RunTables.from_entries(rows, DENSE)
    chosen = [*tables.front["candidate"], *tables.finals["candidate"]]
    strengths = {
        short: _ratios(row) for short, row in zip(tables.candidates["candidate"], rows, strict=True) if short in chosen
    }
    view = {
        "title": "resnet20 on cifar10" + mark,
        "created": "2026-01-31 12:00",
        "command": "python run_search.py search --network resnet20 --data cifar10 --target-flops 0.7,0.5,0.3" + mark,
        "resume_command": "python run_search.py search --resume results/resnet20-cifar10",
        "export_command": "python run_search.py export results/resnet20-cifar10 --pick best",
        "facts": {
            "Network": "resnet20" + mark,
            "Data": "cifar10: 45,000 to fine-tune on, 5,000 to search with, 10,000 to test",
            "Host": "2 cores, no GPU",
            "Protocol": "The weights have seen the search split, whose accuracy ranks candidates only.",
        },
        "dense": DENSE,
        "tables": tables,
        "allocations": strengths,
        "sensitivity": _scan(rng, sites),
        "skipped": {
            "linear": "not a convolution",
            "shortcut" + mark: "its removal does not survive a forward pass" + mark,
        },
        "targets": TARGETS,
    }
    return RunView(**(view | changes))


def with_tables(run: RunView, **changes: Any) -> RunView:
    """The same run with other tables."""
    return replace(run, tables=replace(run.tables, **changes))


def without_result(run: RunView) -> RunView:
    """The same run, had every candidate failed."""
    frame = run.tables.candidates.assign(status="failed", reason="out of memory", score=math.nan, test_score=math.nan)
    failed = with_tables(run, candidates=frame, front=frame[:0], finals=run.tables.finals[:0])
    return replace(failed, allocations={})


def _row(
    rng: random.Random, sites: Sequence[str], strategy: str, target: tuple[str, int], index: int, mark: str
) -> CandidateEntry:
    key = f"{rng.getrandbits(80):020x}"
    kept = target[1] / DENSE.flops * rng.uniform(0.995, 1.0)
    allocation = {site: {"ratio": round(min(1.0, max(0.0, rng.gauss(1 - kept**0.5, 0.15))), 3)} for site in sites}
    candidate = Candidate(method="l1", allocation=allocation, seed=index)
    outcome = failed_outcome(f"the loss was NaN at step 12{mark}", seconds=3.2)
    if rng.random() > 0.04:
        accuracy = 0.93 - 0.1 * (1 - kept) ** 2 + (0.004 if strategy != "acra-uniform" else 0) + rng.gauss(0, 0.006)
        outcome = Outcome(status="ok", accuracy=accuracy, loss=3 * (1 - accuracy), drift=1 - accuracy,
                          flops=int(kept * DENSE.flops),
                          params=int(DENSE.params * kept), bytes=int(DENSE.bytes * kept), epochs=1, seconds=21.5,
                          device="cpu")  # fmt: skip
    return CandidateEntry(key, "search", strategy, parse_target(target[0]), target[1], candidate, outcome)


def _final(
    rng: random.Random, rows: Sequence[CandidateEntry], strategy: str, target: tuple[str, int], seed: int
) -> CandidateEntry:
    group = [row for row in rows if (row.strategy, str(row.target)) == (strategy, target[0]) and row.stage == "search"]
    best = max(group, key=lambda row: row.outcome.score or 0)
    candidate = best.candidate.model_copy(update={"seed": seed, "judge": "test"})
    accuracy = (best.outcome.score or 0) - 0.012 + rng.gauss(0, 0.002)
    outcome = best.outcome.model_copy(update={"metrics": {"accuracy": accuracy}, "epochs": 10, "seconds": 210})
    return CandidateEntry(
        f"{rng.getrandbits(80):020x}", "final", strategy, parse_target(target[0]), target[1], candidate, outcome
    )


def _ratios(row: CandidateEntry) -> dict[str, tuple[float, str]]:
    return {
        site: (float(knobs["ratio"]), f"ratio={knobs['ratio']}") for site, knobs in row.candidate.allocation.items()
    }


def _scan(rng: random.Random, sites: Sequence[str]) -> pd.DataFrame:
    lines = []
    for site in sites:
        harm = rng.uniform(0.05, 0.8)
        for strength in (0.1, 0.3, 0.5, 0.7, 0.9):
            accuracy = 0.93 - harm * strength**2
            lines.append(("l1", site, f"ratio={strength}", strength, accuracy, 3 * (1 - accuracy), 1024))
    return pd.DataFrame(lines, columns=["method", "site", "setting", "strength", "score", "loss", "images"])
