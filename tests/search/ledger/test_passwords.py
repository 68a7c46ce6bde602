"""A search in a server that asks for a password: the password is in nothing that it leaves or shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_postgresql import SHORT, Server, server  # noqa: F401, the fixture

import run_search

pytest.importorskip("psycopg")
pytestmark = [pytest.mark.postgresql, pytest.mark.slow]
SCRIPT = str(Path(run_search.__file__).resolve())
PASSWORD = "p@ss word"
SPELLINGS = (b"p@ss word", b"p%40ss%20word", b"p%40ss+word", b"p%40ss word")


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, cwd=folder, env=settings)


def shows_nothing(folder: Path, done: subprocess.CompletedProcess[bytes]) -> None:
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, text in texts.items():
        assert not [spelling for spelling in SPELLINGS if spelling in text], name


@pytest.mark.parametrize("in_query", [False, True])
def test_a_search_its_report_and_its_resumption(server: Server, tmp_path: Path, in_query: bool) -> None:  # noqa: F811
    url = server.create(f"secret-{in_query}")
    if in_query:
        url = url.replace(":p%40ss%20word@", "@") + "?password=p%40ss%20word"
    made = start(tmp_path, "search", "--network", "small", *SHORT, "--ledger", url, "--name", "run")
    assert made.returncode == 0, made.stderr.decode()
    shows_nothing(tmp_path, made)
    assert b"postgresql://postgres@127.0.0.1" in (tmp_path / "results" / "run" / "run.json").read_bytes()

    asked = start(tmp_path, "search", "--resume", "results/run", PGPASSWORD="", HOME=str(tmp_path))
    assert asked.returncode == 2
    line = asked.stderr.decode().splitlines()[-1]
    assert "PGPASSWORD" in line
    assert "~/.pgpass" in line
    again = start(tmp_path, "search", "--resume", "results/run", PGPASSWORD=PASSWORD)
    assert again.returncode == 0, again.stderr.decode()
    shows_nothing(tmp_path, again)
    board = start(tmp_path, "leaderboard", "--ledger", url, "--format", "html")
    assert board.returncode == 0, board.stderr.decode()
    shows_nothing(tmp_path, board)
    wrong = start(tmp_path, "leaderboard", "--ledger", url.replace("ss%20word", "ss%20wort"))
    assert wrong.returncode == 2
    assert b"wort" not in wrong.stdout + wrong.stderr

    (tmp_path / ".pgpass").write_text(f"127.0.0.1:*:*:postgres:{PASSWORD}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    kept = start(tmp_path, "search", "--resume", "results/run", PGPASSFILE=str(tmp_path / ".pgpass"))
    assert kept.returncode == 0, kept.stderr.decode()


@pytest.mark.ray
def test_workers_and_ray_are_told_nothing(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """Neither their arguments, nor their environment, nor Ray's own logs and tables of jobs."""
    url = server.create("secret-ray")
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    arguments = ["search", "--network", "small", *SHORT, "--ledger", url, "--name", "run", "--workers", "1"]
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments], cwd=tmp_path, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    seen, told = 0, list[str]()
    while process.poll() is None:
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if os.getsid(int(folder.name)) != process.pid:
                    continue
                texts = [(folder / name).read_bytes() for name in ("cmdline", "environ")]
            except OSError:
                continue
            if int(folder.name) == process.pid and not (tmp_path / "results").exists():
                continue  # it is about to read its arguments
            seen += b"ray::" in texts[0]
            told += [texts[0].decode()[:200] for spelling in SPELLINGS for text in texts if spelling in text]
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert seen
    assert not told
    shows_nothing(tmp_path, subprocess.CompletedProcess(arguments, 0, out, err))
