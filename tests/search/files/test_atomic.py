"""Folders of runs: nobody gets one that another has taken."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.errors import UserError
from search.files.atomic import claim_folder

ROOT = Path(__file__).resolve().parents[3]


def test_each_of_many_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: claim_folder(tmp_path / "results", "run"), range(24)))
    assert sorted(names) == sorted(["run", *(f"run-{number}" for number in range(2, 25))])
    assert {folder.name for folder in (tmp_path / "results").iterdir()} == set(names)


@pytest.mark.parametrize("used", [False, True])
def test_an_empty_one_goes_with_its_process(tmp_path: Path, used: bool) -> None:
    code = "import sys; from pathlib import Path; from search.files.atomic import claim_folder; p = Path(sys.argv[1]); "
    code += "name = claim_folder(p, 'run'); sys.argv[2] == 'True' and (p / name / 'file').touch()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "results"), str(used)], check=True, cwd=ROOT)
    assert (tmp_path / "results").exists() == used


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="another folder with results"):
        claim_folder(tmp_path / "results", "run")
