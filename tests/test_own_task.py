"""A user's own task from the command line: searched, shown and ranked by its metric, of which lower is better."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import denoising
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader

import run_search

SCRIPT = Path(run_search.__file__).resolve()
SEARCH = ["--target-flops", "0.6,0.4", "--epochs", "1", "--final-epochs", "1", "--workers", "0"]
# Of classification alone; `kept` and `asked` are percentages of FLOPs.
FOREIGN = re.compile(r"accurac|\bimages?\b|\bclass(es)?\b|percentage points|\blogits?\b|--weights|top-1", re.I)


def command(folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints; its exit code is what it should be, and nothing is a traceback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    words = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a search by MAE has run, and one of the same network by PSNR."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(denoising.__file__, folder / "denoising.py")
    (folder / "psnr.py").write_text(
        "import denoising\n\n\ndef build():\n"
        "    return denoising.build(metrics=('PSNR, dB', 'MAE, mm, lower is better'))\n"
    )
    strategies = ["--strategy", "acra-uniform,acra-sensitivity,random", "--trials", "4", "--finalists", "2"]
    search = [*SEARCH, *strategies, "--final-seeds", "2", "--name", "mae"]
    screen = command(folder, "search", "--task", "denoising.py:build", *search)
    (folder / "screen.txt").write_text(screen)
    search = [*SEARCH, "--strategy", "acra-uniform", "--final-seeds", "2", "--name", "psnr"]
    command(folder, "search", "--task", "psnr.py:build", *search)
    return folder


def visible_text(page: Path) -> str:
    """Of a page: its text and the data of its pictures, without style sheets and scripts."""
    content = page.read_text()
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', content, re.S)
    content = re.sub(r"<(script|style).*?</\1>", " ", content, flags=re.S)
    return unescape(re.sub(r"<[^>]+>", " ", content)) + " ".join(data)


def test_nothing_speaks_of_classification(folder: Path) -> None:
    texts = {path.name: path.read_text() for path in folder.glob("results/mae/*.csv")}
    texts |= {path.name: visible_text(path) for path in folder.glob("results/mae/*.html")}
    texts["screen"] = (folder / "screen.txt").read_text()
    texts["plan"] = command(folder, "plan", "--task", "denoising.py:build", "--target-flops", "0.5")
    for form in ("table", "md", "tex", "csv", "json"):
        texts[form] = command(folder, "leaderboard", "--task", "denoising.py:build", "--format", form)
    record = json.loads((folder / "results/mae/run.json").read_text())
    del record["config"]  # names of settings
    texts["run.json"] = json.dumps(record)
    assert len(texts) == 14
    spoken = {name: FOREIGN.search(text) for name, text in texts.items()}
    assert {name: match[0] for name, match in spoken.items() if match} == {}
    assert [name for name, text in texts.items() if "MAE" not in text] == ["plan"]
    assert all("(lower is better)" in texts[form] for form in ("table", "md", "tex"))


def test_the_first_screen_names_metrics_and_what_is_left_out(folder: Path) -> None:
    screen = (folder / "screen.txt").read_text()
    assert "metric    MAE, mm, lower is better; PSNR, dB, higher is better" in screen
    assert "64 inputs to fine-tune on, 32 to search with, 48 to test" in screen
    assert "the task gives no outputs to compare: nothing is distilled, drift is not measured" in screen
    assert re.search(r"target +strategy +kept FLOPs +params +MAE, mm +change +PSNR, dB +seeds", screen)


def test_the_lowest_error_ranks_first(folder: Path) -> None:
    candidates = pd.read_csv(folder / "results/mae/candidates.csv", dtype={"target": str})
    finalists = pd.read_csv(folder / "results/mae/finalists.csv", dtype={"target": str})
    assert candidates["drift"].isna().all()
    assert candidates["PSNR"].notna().sum() == candidates["MAE"].notna().sum() > 0
    searched = candidates[candidates["stage"] == "search"]
    for target, rivals in searched.groupby("target"):
        chosen = finalists[finalists["target"] == target]
        best = rivals.drop_duplicates("allocation").nsmallest(2, "MAE")["allocation"]
        assert set(chosen["allocation"]) == set(best)
        tested = candidates[(candidates["stage"] == "final") & (candidates["target"] == target)]
        means = tested.groupby("allocation")["test_MAE"].mean()
        assert dict(zip(chosen["allocation"], chosen["test_MAE"], strict=True)) == pytest.approx(means.to_dict())
    dense = json.loads((folder / "results/mae/run.json").read_text())["dense"]
    assert (finalists["delta_MAE"] - (finalists["test_MAE"] - dense["test_MAE"])).abs().max() < 1e-12


def test_the_front_holds_what_no_other_beats(folder: Path) -> None:
    candidates = pd.read_csv(folder / "results/mae/candidates.csv")
    searched = candidates[candidates["stage"] == "search"]
    points = set(zip(searched["flops"], searched["MAE"], strict=True))
    unbeaten = {
        (flops, error)
        for flops, error in points
        if not any(x <= flops and y <= error and (x, y) != (flops, error) for x, y in points)
    }
    front = pd.read_csv(folder / "results/mae/pareto.csv")
    assert set(zip(front["flops"], front["MAE"], strict=True)) == unbeaten


def test_metrics_are_never_mixed(folder: Path) -> None:
    by_title = {task["title"]: task for task in json.loads(command(folder, "leaderboard", "--format", "json"))["tasks"]}
    assert set(by_title) == {"denoising.py:build", "psnr.py:build"}
    assert by_title["denoising.py:build"]["metric"] == "MAE, mm, lower is better"
    assert by_title["psnr.py:build"]["metric"] == "PSNR, dB"
    assert all("MAE" in row and "PSNR" not in row for row in by_title["denoising.py:build"]["rows"])
    assert all("PSNR" in row and "MAE" not in row for row in by_title["psnr.py:build"]["rows"])
    text = command(folder, "leaderboard")
    assert "mean rank" not in text
    assert "test MAE, mm" in text
    assert "test PSNR, dB" in text
    rows = by_title["denoising.py:build"]["rows"]
    assert [row["MAE"] for row in rows if row["target"] == "0.4"] == sorted(
        row["MAE"] for row in rows if row["target"] == "0.4"
    )
    assert "as recorded" in command(folder, "leaderboard", "--verify", rows[0]["row"])


def test_a_score_that_raises_in_the_middle_fails_its_candidate(folder: Path) -> None:
    (folder / "choosy.py").write_text(
        "import denoising\n\n\ndef score(network, batches):\n    if network.first.out_channels < 4:\n"
        "        raise LookupError('too few channels')\n    return denoising.score(network, batches)\n\n\n"
        "def build():\n    return denoising.build(score=score)\n"
    )
    search = [*SEARCH, "--strategy", "acra-uniform,random", "--finalists", "0", "--name", "choosy"]
    command(folder, "search", "--task", "choosy.py:build", *search)
    candidates = pd.read_csv(folder / "results/choosy/candidates.csv")
    failed = candidates[candidates["status"] == "failed"]
    assert 0 < len(failed) < len(candidates)
    assert set(failed["reason"]) == {"LookupError: too few channels"}
    assert failed["MAE"].isna().all()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "returned a NoneType; it must return a models.task.Task"),
        ("raise KeyError('weights')", "KeyError: 'weights' (line 5)"),
        ("return denoising.build(score=lambda network, batches: {})", "score lacks MAE, PSNR; it has nothing"),
        ("return denoising.build(metrics='MAE, lower is beter')", "direction 'lower is beter' is not known"),
    ],
)
def test_faults_end_with_one_sentence(folder: Path, body: str, words: str) -> None:
    (folder / "faulty.py").write_text(f"import denoising\n\n\ndef build():\n    {body}\n")
    printed = command(folder, "search", "--task", "faulty.py:build", *SEARCH, "--name", "faulty", code=2)
    assert words in printed
    assert not (folder / "results/faulty/candidates.csv").exists()


def test_an_export_speaks_of_the_metric(folder: Path) -> None:
    screen = command(
        folder, "export", "results/mae", "--pick", "best", "--to", "deploy", "--format", "config,safetensors"
    )
    card, config = (
        (folder / "deploy" / "README.md").read_text(),
        json.loads((folder / "deploy/config.json").read_text()),
    )
    del config["task"], config["recipe"]["recalibration_images"]  # names of settings
    for text in (screen, card, json.dumps(config)):
        assert not FOREIGN.search(text)
    metrics = config["metrics"]
    best = pd.read_csv(folder / "results/mae/finalists.csv").nsmallest(1, "test_MAE").iloc[0]
    assert metrics["mean"] == best["test_MAE"]
    assert f"| mean of 2 seeds | {metrics['mean']:.4g} ± {metrics['std']:.2g} mm |" in card
    assert "MAE, mm, lower is better on 48 test inputs" in card
    assert "distilled" not in card
    assert re.search(r"MAE +0\.\d+ mm on the test set, dense 0\.\d+ mm", screen)


def test_a_dense_network_is_trained(folder: Path) -> None:
    line = ["train", "--task", "denoising.py:build", "--out", "more.safetensors", "--epochs", "1"]
    assert re.search(
        r"more.safetensors: MAE 0\.\d+ mm on the search split, 0\.\d+ mm on the test set", command(folder, *line)
    )
    record, _ = json.JSONDecoder().raw_decode(command(folder, *line, "--force", "--json"))
    network = denoising.Denoiser().eval()
    network.load_state_dict(safetensors.torch.load_file(folder / "more.safetensors"))
    with torch.no_grad():
        scores = {split: denoising.score(network, DataLoader(data, 16))["MAE"] for split, data in
                  (("search", denoising.noisy_images(32, 1)), ("test", denoising.noisy_images(48, 2)))}  # fmt: skip
    assert record["MAE"] == pytest.approx(scores)
