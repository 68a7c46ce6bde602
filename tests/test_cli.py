"""The command line: every mistake is one sentence on stderr and exit code 2; `--json` is one object on stdout.

Most commands run in this process, which is what makes so many of them cheap; a few run as a user would run them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import run_search

SCRIPT = Path(run_search.__file__).resolve()
TINY = ["--train-images", "300", "--epochs", "0.2", "--scan-levels", "2", "--workers", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `run_search.main` with these arguments."""
    before = sys.argv
    sys.argv = ["run_search.py", *arguments]
    try:
        run_search.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence with which a command is refused; everything else that must hold is checked here."""
    code, out, err = run(capsys, *arguments)
    assert code == 2, (out, err)
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in err
    return line


PLAN = ["plan", "--network", "resnet20"]
SEARCH = ["search", "--network", "small", *TINY, "--json"]

# arguments -> what the sentence must name: the value at fault, and what would do
WRONG: list[tuple[list[str], list[str]]] = [
    (["plan", "--network", "resnet21"], ["'resnet21'", "resnet20"]),
    (["plan", "--network", "no-such-thing-at-all"], ["'no-such-thing-at-all'"]),
    ([*PLAN, "--method", "l11"], ["'l11'", "l1"]),
    ([*PLAN, "--strategy", "acra-unifrom"], ["'acra-unifrom'", "acra-uniform"]),
    ([*PLAN, "--target-flops", "abc"], ["'abc'", "2.12x"]),
    ([*PLAN, "--target-flops", "0"], ["'0'", "between 0 and 1"]),
    ([*PLAN, "--target-flops", "1.5"], ["'1.5'"]),
    ([*PLAN, "--target-flops", "-0.5"], ["'-0.5'"]),
    ([*PLAN, "--target-flops", ""], ["--target-flops ''", "empty"]),
    ([*PLAN, "--target-flops", ","], ["--target-flops ','", "nothing"]),
    ([*PLAN, "--target-flops", "0.0001"], ["'0.0001'", "out of reach", "kept 0.0025 to 1"]),
    ([*PLAN, "--target-flops", "9G"], ["'9G'", "out of reach", "to 40.6M"]),
    ([*PLAN, "--target-flops", "0.5,0.3"], ["one target"]),
    ([*PLAN, "--option", "seed=1"], ["l1", "'seed'"]),
    ([*PLAN, "--method", "random", "--option", "sed=1"], ["'sed'", "seed"]),
    ([*PLAN, "--method", "random", "--option", "seed"], ["'seed'", "NAME=VALUE"]),
    ([*PLAN, "--method", "random", "--option", "seed=abc"], ["'seed=abc'", "like 0"]),
    ([*PLAN, "--method", "random", "--option", "seed=true"], ["'seed=true'"]),
    ([*PLAN, "--method", "random", "--option", "seed=NaN"], ["'seed=NaN'"]),
    ([*PLAN, "--weights", "nothing.th"], ["nothing.th"]),
    ([*PLAN, "--data", "cifar11"], ["'cifar11'", "cifar10"]),
    ([*PLAN, "--data", "npz:nothing.npz"], ["nothing.npz"]),
    ([*PLAN, "--data", "imagefolder:nothing"], ["nothing/train"]),
    ([*PLAN, "--data", "nothing.py:images"], ["nothing.py"]),
    (["plan", "--network", "nothing.py:net"], ["nothing.py:net", "--data"]),
    (["plan", "--network", "nothing.py:net", "--data", "digits"], ["nothing.py"]),
    ([*PLAN, "--mean", "a,b,c"], ["--mean", "'a,b,c'", "comma-separated"]),
    ([*PLAN, "--mean", "0.5"], ["1 value ", "3 channels"]),
    ([*PLAN, "--std", "1,1,0"], ["std", "positive"]),
    ([*PLAN, "--std", "1,1,nan"], ["std", "finite"]),
    ([*PLAN, "--search-fraction", "0"], ["--search-fraction 0", "greater than 0"]),
    ([*PLAN, "--search-fraction", "1"], ["--search-fraction 1", "less than 1"]),
    ([*PLAN, "--search-fraction", "nan"], ["--search-fraction nan"]),
    ([*PLAN, "--split-seed", "-1"], ["--split-seed -1"]),
    ([*PLAN, "--seed", "99999999999999999999"], ["seed"]),
    ([*PLAN, "--device", "tpu"], ["'tpu'", "cuda:N"]),
    ([*PLAN, "--device", "cuda:77"], ["'cuda:77'", "not there"]),
    ([*PLAN, "--scan-images", "0"], ["--scan-images"]),
    ([*PLAN, "--scan-levels", "0"], ["--scan-levels"]),
    ([*PLAN, "--scan-levels", "x"], ["--scan-levels", "integer"]),
    ([*PLAN, "--colour", "3"], ["--colour"]),
    ([*PLAN, "stray"], ["stray"]),
    (["plan", "--network"], ["--network"]),
    (["frobnicate"], ["frobnicate"]),
    (["plan", "--weights", "w.th"], ["--network"]),
    (["plan", "--data", "digits"], ["--network"]),
    ([*SEARCH, "--lr", "0"], ["--lr 0", "greater than 0"]),
    ([*SEARCH, "--lr", "nan"], ["--lr nan"]),
    ([*SEARCH, "--lr", "inf"], ["--lr inf", "finite"]),
    ([*SEARCH, "--epochs", "-1"], ["--epochs"]),
    ([*SEARCH, "--epochs", "inf"], ["--epochs inf", "finite"]),
    ([*SEARCH, "--final-epochs", "inf"], ["--final-epochs inf", "finite"]),
    ([*SEARCH, "--batch-size", "1"], ["--batch-size"]),
    ([*SEARCH, "--schedule", "linear"], ["'linear'", "'one-cycle' or 'cosine'"]),
    ([*SEARCH, "--distill", "2"], ["--distill"]),
    ([*SEARCH, "--temperature", "0"], ["--temperature 0"]),
    ([*SEARCH, "--weight-decay", "-1"], ["--weight-decay"]),
    ([*SEARCH, "--workers", "-3"], ["--workers"]),
    ([*SEARCH, "--gpus-per-worker", "-1"], ["--gpus-per-worker -1"]),
    ([*SEARCH, "--gpus-per-worker", "1.5"], ["1.5", "whole number"]),
    ([*SEARCH, "--time-limit", "0"], ["--time-limit 0"]),
    ([*SEARCH, "--ray-address", "nowhere:1"], ["nowhere:1", "at least one worker"]),
    ([*SEARCH, "--ray-address", "127.0.0.1:1", "--workers", "1"], ["'127.0.0.1:1'", "ray start --head"]),
    ([*SEARCH, "--ray-address", "here", "--workers", "1"], ["'here'", "host:port"]),
    ([*SEARCH, "--gpus-per-worker", "64", "--workers", "1"], ["64 GPUs", "ask for fewer"]),
    ([*SEARCH, "--final-seeds", "0"], ["--final-seeds"]),
    ([*SEARCH, "--finalists", "-1"], ["--finalists"]),
    ([*SEARCH, "--trials", "0"], ["--trials"]),
    ([*SEARCH, "--seed", "-1"], ["seed"]),
    ([*SEARCH, "--strategy", ","], ["--strategy ','", "nothing"]),
    ([*SEARCH, "--rungs", "0,1"], ["--rungs", "acra-uniform", "tpe"]),
    ([*SEARCH, "--strategy", "tpe", "--rungs", "1,0.5"], ["--rungs (1.0, 0.5)", "0,0.25,1"]),
    ([*SEARCH, "--strategy", "tpe", "--rungs", "1"], ["--rungs (1.0,)", "two or more"]),
    ([*SEARCH, "--strategy", "tpe", "--rungs", "0,x"], ["--rungs '0,x'", "number", "comma-separated"]),
    ([*SEARCH, "--strategy", "tpe", "--rungs", "0,nan"], ["--rungs '0,nan'", "finite"]),
    ([*SEARCH, "--strategy", "tpe", "--rungs", "0,1", "--reduction-factor", "1"], ["--reduction-factor 1"]),
    ([*SEARCH, "--target-flops", "0.5,,x"], ["'x'"]),
    ([*SEARCH, "--target-flops", "0.5,0.0001"], ["'0.0001'", "out of reach"]),
    (["search", "--resume", "results/nothing"], ["results/nothing"]),
    (["search", "--resume", "nothing", "--results", "there"], ["no run in there/nothing"]),
    (["search", "--data", "digits"], ["error: --data needs a --network that it belongs to"]),
    (["search", "--data", "digits", "--weights", "x"], ["--weights and --data need a --network that they belong to"]),
    (["compare", "--methods", "kse", "--option", "kse.alpha=x"], ["--option 'kse.alpha=x' will not do"]),
    (["train"], ["--out"]),
    (["train", "--out", "x", "--network", "small", "--epochs", "-1"], ["--epochs"]),
    (["export"], ["argument", "run"]),
]
NAMES = ["../x", "a/b", "/tmp/x", "..", ".", "-x", "a b", "a\nb", "<b>", "a;b", "$(x)", "é", "a\\b", ".hidden"]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    sentence = refused(capsys, *arguments) if "--json" not in arguments else last_line_refused(capsys, *arguments)
    for word in words:
        assert word in sentence
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set()


def last_line_refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """With `--json` progress goes to stderr too; stdout stays empty and the last line is the sentence."""
    code, out, err = run(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert len(lines) <= 2
    return lines[-1]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_run_names_write_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    sentence = last_line_refused(capsys, *SEARCH, f"--name={name}")
    assert "plain folder name" in sentence
    assert list(tmp_path.iterdir()) == []


def write_network(path: Path, body: str) -> str:
    path.write_text("import torch\nfrom torch import nn\n" + body)
    return f"{path}:net"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, undefined))\n", ["undefined", "4"]),
        ("import no_such_package\n", ["no_such_package", "3"]),
        ("def net(:\n", ["3"]),
        ("def other():\n    pass\n", ["net", "other"]),
        ("net = 3\n", ["net"]),
        ("def net(classes):\n    return 'a string'\n", ["str", "Module"]),
        ("def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(65, classes))\n", ["1×8×8"]),
        ("def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))\n", ["(1, 9)", "(1, 10)"]),
        ("raise SystemExit(0)\n", ["SystemExit"]),
    ],
)  # fmt: skip
def test_faults_of_a_users_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, body: str, words: list[str]
) -> None:
    spec = write_network(tmp_path / "mine.py", body)
    sentence = refused(capsys, "plan", "--network", spec, "--data", "digits")
    assert "mine.py" in sentence
    for word in words:
        assert word in sentence


def test_a_users_network_that_nothing_can_be_pruned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = write_network(
        tmp_path / "mine.py", "def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    assert "out of reach" in refused(capsys, "plan", "--network", spec, "--data", "digits")
    arguments = ["search", "--network", spec, "--data", "digits", *TINY, "--json"]
    assert "can compress nothing" in last_line_refused(capsys, *arguments)


def test_checkpoints_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from models.networks.catalog import build_network

    torch.save(build_network("resnet32", classes=10).state_dict(), tmp_path / "other.pt")
    sentence = refused(capsys, *PLAN, "--weights", "other.pt")
    assert "layer1.3" in sentence
    torch.save(build_network("resnet20", classes=100).state_dict(), tmp_path / "classes.pt")
    sentence = refused(capsys, *PLAN, "--weights", "classes.pt")
    assert "100" in sentence
    assert "10" in sentence
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint at all")
    assert "noise.pt" in refused(capsys, *PLAN, "--weights", "noise.pt")
    torch.save({"model": object}, tmp_path / "pickle.pt")
    assert "pickle.pt" in refused(capsys, *PLAN, "--weights", "pickle.pt")


def test_arrays_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", x_train=np.zeros((4, 3, 8, 8), np.uint8), y_train=np.zeros(4, np.int64))
    assert "x_test" in refused(capsys, *PLAN, "--data", "npz:half.npz")
    grey, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "grey.npz", x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    assert "channels" in refused(capsys, "plan", "--network", "resnet18", "--data", "npz:grey.npz")


def test_places_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, err = run(capsys, *SEARCH, "--ledger", "file/ledger.db")
    assert (code, out) == (2, "")
    assert "file/ledger.db" in err.splitlines()[-1]
    arguments = ["train", "--network", "small", "--out", "file/x.safetensors", "--epochs", "0"]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "cannot be written" in err.splitlines()[-1]


def test_a_results_folder_in_the_way(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, err = run(capsys, *SEARCH, "--results", "file")
    assert (code, out) == (2, "")
    assert "cannot be written" in err.splitlines()[-1]


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"config": 3}', '{"config": {"task": {}}}', "\x00"])
def test_damaged_runs_are_not_resumed(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text(content)
    assert "r/run.json" in refused(capsys, "search", "--resume", "r")


def one_object(text: str) -> dict[str, object]:
    """The one JSON object that a text is, and nothing else."""
    found, end = json.JSONDecoder().raw_decode(text)
    assert text[end:].strip() == ""
    assert isinstance(found, dict)
    return found


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *PLAN, "--target-flops", "0.5", "--data-root", "nowhere", "--json")
    assert (code, err) == (0, "")
    found = one_object(out)
    assert found["network"] == "resnet20"
    assert not Path("nowhere").exists()


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for command, name in (("methods", "l1"), ("strategies", "acra-uniform"), ("networks", "resnet20")):
        code, out, _ = run(capsys, command)
        assert code == 0
        assert name in out
        code, out, err = run(capsys, command, "--json")
        assert (code, err) == (0, "")
        assert name in json.dumps(json.loads(out))


def test_methods_say_what_goes_together(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "methods")
    assert re.search(
        r"one of .*\bl1\b.* first and one of kernel-clustering, kse, svd, tucker second, as in l1\+kse", out
    )


@pytest.mark.parametrize("command", [[], ["search"], ["plan"], ["train"], ["export"], ["methods"]])
def test_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, out, err = run(capsys, *command, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


def test_every_candidate_failing_is_said_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SEARCH, "--strategy", "acra-uniform", "--target-flops", "0.7,0.5", "--name", "bad"]
    arguments += ["--lr", "1000", "--weight-decay", "100", "--epochs", "5"]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "every candidate failed" in err.splitlines()[-1]
    assert "not finite" in err or "loss was" in err


@pytest.mark.parametrize("command", ["search", "compare"])
def test_every_finalist_failing_is_said_and_no_export_is_proposed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    arguments = [command, "--network", "small", *TINY, "--strategy" if command == "search" else "--strategies"]
    arguments += ["acra-uniform", "--target-flops", "0.5", "--name", "bad", "--epochs", "0", "--final-epochs", "5"]
    arguments += ["--lr", "1000", "--weight-decay", "100", *(["--methods", "l1"] if command == "compare" else [])]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert "export " not in out
    (sentence,) = err.splitlines()
    assert sentence.startswith("error: every finalist failed, 3 in all, most often so: ")
    assert "--resume" in sentence
    assert "--retry-failed" in sentence
    assert "Export a candidate" not in (tmp_path / "results" / "bad" / "report.html").read_text()


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """From another folder, as a process: exit code, one line, no traceback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for arguments, code in ((["plan", "--network", "resnet21"], 2), (["--lr"], 2), (["networks"], 0)):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert done.stdout == ""
            assert len(done.stderr.strip().splitlines()) == 1
