"""A user's own method and strategy, by file and by installed package: searched, resumed, exported, compared."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from users_code import install_package, write_code

import run_search
from methods.registry import create, method_info
from methods.testing import CHECKS, MethodCase
from models.errors import UserError
from search import api

SCRIPT = Path(run_search.__file__).resolve()
TINY = [
    "--train-images",
    "200",
    "--epochs",
    "0.2",
    "--final-epochs",
    "0.2",
    "--device",
    "cpu",
    "--workers",
    "0",
    "--target-flops",
    "0.5",
]
SEARCH = ["search", "--network", "small", "--data", "digits", *TINY, "--final-seeds", "1"]


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `my`, relative to the working directory; each test's files differ, so that none is known already."""
    folder = write_code(tmp_path / "my")
    for file in folder.iterdir():
        file.write_text(f"{file.read_text()}\n# {tmp_path}\n")
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: str, site: Path | None = None) -> tuple[int, str]:
    """The command line in a process of its own, which knows nothing yet: exit code, and all that it says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [SCRIPT.parent, *([site] if site else [])]))}
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=280, env=environment)  # fmt: skip
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


def run_here(*arguments: str, site: Path | None = None) -> tuple[int, str]:
    """The same in this process, which is much faster."""
    assert site is None
    output, argv, code = io.StringIO(), sys.argv, 0
    sys.argv = ["run_search.py", *arguments]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            run_search.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.argv = argv
    assert "Traceback" not in output.getvalue()
    return code, output.getvalue()


def succeed(*arguments: str, by: Callable[..., tuple[int, str]] = run_here, site: Path | None = None) -> str:
    code, output = by(*arguments, site=site)
    assert code == 0, output
    return output


def refuse(*arguments: str, by: Callable[..., tuple[int, str]] = run_here, site: Path | None = None) -> str:
    code, output = by(*arguments, site=site)
    assert code == 2, output
    return output.strip().splitlines()[-1]


def record_of(name: str) -> dict[str, Any]:
    return json.loads(Path("results", name, "run.json").read_text())["config"]


def digest(*files: Path) -> str:
    """Of one file; of several, the digest of their names and digests."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    if len(files) == 1:
        return digests[0][:12]
    lines = [f"{file.name} {each}\n" for file, each in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def test_searched_resumed_and_exported(code: Path) -> None:
    succeed(*SEARCH, "--method", "my/method.py:LargestWeight", "--option", "power=2",
            "--strategy", "my/strategy.py:sloping,acra-uniform", "--name", "mine")  # fmt: skip
    method = f"LargestWeight@{digest(code / 'helper.py', code / 'method.py')}"
    strategy = f"sloping@{digest(code / 'strategy.py')}"
    config = record_of("mine")
    places = {method: f"{code}/method.py:{method}", strategy: f"{code}/strategy.py:{strategy}"}
    assert config["code"] == places
    candidates = pd.read_csv("results/mine/candidates.csv")
    assert set(candidates["method"]) == {method}
    assert set(candidates["strategy"]) == {strategy, "acra-uniform"}
    assert candidates[candidates["stage"] == "search"]["accuracy"].notna().all()

    os.chdir("/")
    folder = code.parent / "results" / "mine"
    before = (folder / "finalists.csv").read_text()
    succeed("search", "--resume", str(folder), by=run)
    assert (folder / "finalists.csv").read_text() == before

    succeed("export", str(folder), "--pick", "best", "--to", str(folder / "out"), "--format", "config,safetensors")
    network = api.load_compressed(folder / "out")
    kept = json.loads((folder / "out" / "config.json").read_text())
    assert kept["method"] == method
    assert kept["method_files"] == {method: places[method]}
    assert sum(parameter.numel() for parameter in network.parameters()) == kept["cost"]["params"]
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_an_export_finds_a_method_that_has_moved(code: Path) -> None:
    succeed(*SEARCH, "--method", "my/method.py:LargestWeight", "--strategy", "acra-uniform",
            "--name", "mine")  # fmt: skip
    succeed("export", "results/mine", "--to", "out", "--format", "config,safetensors")
    code.rename(code.with_name("moved"))
    script = "from search import api; print(type(api.load_compressed('out'{})).__name__)"

    def load(arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script.format(arguments)], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)})  # fmt: skip

    assert "which file is not known here; name it as path/to/file.py:LargestWeight" in load("").stderr
    assert load(", method='moved/method.py:LargestWeight'").stdout.strip() == "Small"
    assert "its content is another" in load(", method='moved/method.py:Broken'").stderr


def test_a_changed_file_is_another_method(code: Path) -> None:
    arguments = [*SEARCH, "--method", "my/method.py:LargestWeight", "--strategy", "acra-uniform"]
    succeed(*arguments, "--name", "one")
    (code / "helper.py").write_text("def largest(rows):\n    return rows.abs().mean(1)\n")
    assert "method.py has changed" in refuse("search", "--resume", "results/one", by=run)
    succeed(*arguments, "--name", "two", by=run)
    keys = [set(pd.read_csv(f"results/{name}/candidates.csv")["candidate"]) for name in ("one", "two")]
    assert not keys[0] & keys[1]


def test_the_same_file_elsewhere_is_paid_for_once(code: Path) -> None:
    arguments = [*SEARCH, "--strategy", "acra-uniform"]
    succeed(*arguments, "--method", "my/method.py:LargestWeight", "--name", "one")
    code.rename(code.with_name("elsewhere"))
    succeed(*arguments, "--method", "elsewhere/method.py:LargestWeight", "--name", "two")
    seconds = [pd.read_csv(f"results/{name}/finalists.csv")["seconds"].tolist() for name in ("one", "two")]
    assert seconds[0] == seconds[1]  # the very outcome that was measured first


def test_compared_with_others(code: Path) -> None:
    succeed("compare", "--network", "small", "--data", "digits", *TINY, "--seeds", "1", "--name", "both",
            "--methods", "l1,my/method.py:LargestWeight", "--option", "LargestWeight.power=2",
            "--strategies", "my/strategy.py:plain")  # fmt: skip
    table = succeed("leaderboard", "--format", "csv")
    assert "LargestWeight@" in table
    assert "plain@" in table
    command = next(line for line in table.splitlines() if "LargestWeight" in line)
    assert f"{code}/method.py:LargestWeight" in command
    assert "power=2" in command


def test_reading_a_run_executes_no_file(code: Path) -> None:
    """A comparison's strategies depend on whether its methods learn; whoever only reads it need not know."""
    with (code / "method.py").open("a") as file:
        file.write(f"from pathlib import Path\nPath({str(code / 'mark')!r}).touch()\n")
    succeed("compare", "--network", "small", "--data", "digits", *TINY, "--seeds", "1", "--name", "both",
            "--methods", "my/method.py:LargestWeight", "--strategies", "my/strategy.py:plain")  # fmt: skip
    (code / "mark").unlink()
    script = (
        "from search import api\n"
        "run = api.open_run('both')\n"
        "print(run.best, run.pareto, run.leaderboard, run.resume_command)\n"
        "print(api.leaderboard().text('csv'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{code}/method.py:LargestWeight" in done.stdout, "the command of the row"
    assert not (code / "mark").exists()


def test_the_printed_command_names_the_files(code: Path) -> None:
    from search.settings.command import run_command
    from search.settings.config import RunConfig
    from search.settings.users_code import identify_names

    methods, strategies, places = identify_names(["my/method.py:LargestWeight"], ["my/strategy.py:plain", "tpe"])
    config = RunConfig(task={"network": "small"}, methods=methods, strategies=strategies, code=places, name="x")
    words = shlex.split(run_command(config))
    assert words[words.index("--method") + 1] == f"{code}/method.py:LargestWeight"
    assert words[words.index("--strategy") + 1] == f"{code}/strategy.py:plain,tpe"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--method", "my/method.py:LargeWeight"], "did you mean LargestWeight"),
    (["--method", "my/none.py:LargestWeight"], "there is no file"),
    (["--method", "my/method.py"], "write path/to/file.py:function"),
    (["--method", "my/method.py:NOTHING"], "unknown function"),
    (["--method", "my/helper.py:largest"], "must be a subclass of methods.base.Compressor"),
    (["--method", "my/method.py:Nameless"], "give the class info = methods.base.MethodInfo"),
    (["--method", "my/method.py:LargestWeight", "--option", "force=1"], "unknown option of LargestWeight@"),
    (["--method", "l1+my/method.py:LargestWeight"], "cannot be composed"),
    (["--strategy", "my/strategy.py:slooping"], "did you mean sloping"),
    (["--strategy", "my/strategy.py:faulty"], "strategy.py failed: IndexError"),
])  # fmt: skip
def test_what_will_not_do_is_one_sentence(arguments: list[str], message: str) -> None:
    if "--method" in arguments:
        arguments = [*arguments, "--strategy", "acra-uniform"]
    assert message in refuse("plan", "--network", "small", "--data", "digits", "--target-flops", "0.5", *arguments)


def test_a_method_that_fails_is_a_failed_candidate() -> None:
    _, output = run_here(*SEARCH, "--method", "my/method.py:Broken", "--strategy", "acra-uniform")
    assert "nothing works" in output


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_to_the_contract(check: Any) -> None:
    check(MethodCase("my/method.py:LargestWeight", "plain"))


def test_an_installed_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install_package(site)
    assert "fancy@" in succeed("methods", by=run, site=site)
    assert "fancy-slope@" in succeed("strategies", by=run, site=site)
    assert "fancy-net" in succeed("networks", by=run, site=site).splitlines()
    names = ["--network", "fancy-net", "--method", "fancy", "--option", "power=2", "--strategy", "fancy-slope"]
    fixed = ["--data", "digits", *TINY, "--name", "x"]
    succeed("search", *names, *fixed, by=run, site=site)
    config = record_of("x")
    assert config["methods"][0].startswith("fancy@")
    assert config["code"] == {}
    succeed("search", "--resume", "results/x", by=run, site=site)
    assert "unknown method 'fancy'" in refuse(*SEARCH, "--method", "fancy")
    (site / "fancypkg" / "method.py").write_text("# changed\n")
    assert "of the installed package fancypkg has changed" in refuse(
        "search", "--resume", "results/x", by=run, site=site
    )


@pytest.mark.ray
def test_on_ray_workers() -> None:
    succeed(*SEARCH, "--method", "my/method.py:LargestWeight", "--strategy", "my/strategy.py:sloping,acra-uniform",
            "--workers", "2", "--name", "mine", by=run)  # fmt: skip
    candidates = pd.read_csv("results/mine/candidates.csv")
    assert len(candidates) >= 2
    assert candidates[candidates["stage"] == "search"]["accuracy"].notna().all()


@pytest.mark.ray
def test_what_this_process_alone_knows_is_refused_before_workers_start() -> None:
    script = """
import runpy
from search import api
from methods.base import MethodInfo
from methods.registry import register
LargestWeight = runpy.run_path("my/run.py")["LargestWeight"]
register(MethodInfo("of-a-notebook", "s", "s", options={"power": 1.0}), LargestWeight)
api.search("small", "digits", targets=[0.5], method="of-a-notebook", strategy="acra-uniform", epochs=0.2,
           final_epochs=0.2, final_seeds=1, train_images=200, workers=WORKERS, device="cpu", show=False)
"""
    Path("my/run.py").write_text(Path("my/method.py").read_text().replace("from helper", "from my.helper"))

    def search(workers: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script.replace("WORKERS", str(workers))], capture_output=True,
                              text=True, env={**os.environ, "PYTHONPATH": f"{SCRIPT.parent}:."})  # fmt: skip

    assert search(0).returncode == 0, search(0).stderr
    refused = search(2).stderr.strip().splitlines()[-1]
    assert "method of-a-notebook is registered in this process alone, where workers cannot reach it" in refused


def test_composed_with_ours(code: Path) -> None:
    (code / "first.py").write_text(
        "from functools import partial\n"
        "from methods.base import MethodInfo\n"
        "from methods.filters.filter_pruning import FilterPruning\n"
        "from methods.graph.filter_norms import filter_norms\n"
        "INFO = MethodInfo('third-norm', 's', 's', place='first', options={'p': 3})\n"
        "class ThirdNorm(FilterPruning):\n"
        "    info = INFO\n"
        "    def __init__(self, network, example, options):\n"
        "        criterion = lambda pruning, group: filter_norms(network, group, options['p'])\n"
        "        super().__init__(INFO, criterion, network, example, options)\n"
    )
    name = "my/first.py:ThirdNorm+kse"
    info = method_info(name)
    assert info.name == f"ThirdNorm@{digest(code / 'first.py')}+kse"
    assert set(info.options) == {"ThirdNorm.p", "kse.alpha", "kse.neighbours"}
    case = MethodCase(name, "plain", {"ThirdNorm.p": 2})
    compressor = create(name, case.build_network(), case.example)
    assert {site.name.partition(":")[0] for site in compressor.sites} == {"ThirdNorm", "kse"}
    for check in CHECKS:
        check(case)
    with pytest.raises(UserError, match="unknown method 'ksee'"):
        method_info("my/first.py:ThirdNorm+ksee")
