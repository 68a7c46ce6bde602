"""Tables of a run that go through their files."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pandas as pd
from fake_run import fake_run, with_tables

from search.results.run_tables import RunTables


def test_figures_come_back_to_the_last_bit(tmp_path: Path) -> None:
    """Two accuracies tie only if all their bits agree; a parser that rounds would make ties, or lose them."""
    run, rng = fake_run(), random.Random(0)
    candidates = pd.concat([run.tables.candidates] * 200, ignore_index=True)
    figures = [math.ldexp(rng.getrandbits(53), -53) for _ in range(len(candidates))]
    tables = with_tables(run, candidates=candidates.assign(score=figures)).tables
    tables.write(tmp_path)
    assert RunTables.read(tmp_path, "the command").candidates["score"].tolist() == figures
