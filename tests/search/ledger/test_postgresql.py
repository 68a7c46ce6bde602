"""The ledger in PostgreSQL: a real server, the same tests as with a file, and faults of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome
from test_ledger import (  # noqa: F401, collected here too, with the `path` of this file
    test_a_key_keeps_its_outcome_and_only_success_replaces_failure,
    test_half_a_study_of_a_killed_search_is_completed,
    test_refresh_shows_what_another_search_added,
    test_tasks_share_a_file_and_know_nothing_of_each_other,
    test_two_processes_start_and_write_at_once,
    test_what_was_added_is_there_after_reopening,
)

import run_search
from models.errors import UserError
from search.ledger.ledger import Ledger, LedgerError, list_tasks

pytest.importorskip("psycopg")
pytestmark = [pytest.mark.postgresql, pytest.mark.slow]


SHORT = ["--train-images", "300", "--epochs", "0.2", "--scan-levels", "2", "--workers", "0", "--device", "cpu"]


def programs() -> Path | None:
    """Where the server's programs lie; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else kept[-1].parent if kept else None


@dataclass
class Server:
    """A server of our own in a temporary folder."""

    programs: Path
    folder: Path
    port: int

    def run(self, program: str, *arguments: str) -> None:
        """As the user `postgres` if we are the superuser, whom the server refuses to serve."""
        command = [str(self.programs / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self.run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def url(self, database: str, password: str = "p@ss word") -> str:
        quoted = password.replace("@", "%40").replace(" ", "%20")
        return f"postgresql://postgres:{quoted}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return self.url(database)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    where = programs()
    if where is None:
        pytest.skip("no PostgreSQL server on this machine")
    folder = Path("/tmp") / f"rs-pg-{os.getpid()}"  # short: a socket lies in it; and open to another user
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = Server(where, folder, probe.getsockname()[1])
    (folder / "password").write_text("p@ss word")
    (folder / "password").chmod(0o644)
    try:
        found.run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "scram-sha-256",
                  f"--pwfile={folder / 'password'}", "--no-sync")  # fmt: skip
        found.start()
        yield found
        found.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def path(server: Server, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    return server.create(request.node.name[-60:])


def test_a_server_that_goes_away_loses_nothing(server: Server, path: str, tmp_path: Path) -> None:
    """And what it missed is written with the next outcome, once it is back."""
    rescue = tmp_path / "rescue.jsonl"
    ledger = Ledger(path, TASK, TITLE, rescue=rescue)
    ledger.add(candidate(0), outcome(0))
    server.stop()
    try:
        with pytest.raises(LedgerError) as refusal:
            ledger.add(candidate(1), outcome(1))
    finally:
        server.start()
    assert str(rescue) in str(refusal.value)
    assert "ss word" not in str(refusal.value)
    assert ledger.get(candidate(1).key(TASK)) == outcome(1)
    ledger.add(candidate(2), outcome(2))
    ledger.close()
    assert not rescue.exists()
    assert [record.candidate.seed for record in Ledger(path, TASK, TITLE).records()] == [0, 1, 2]


def test_what_cannot_be_reached_is_one_sentence(server: Server) -> None:
    for url in (server.url("no-such"), server.url("postgres", "wrong"), "postgresql://postgres@127.0.0.1:1/x"):
        with pytest.raises(UserError) as refusal:
            Ledger(url, TASK, TITLE)
        sentence = str(refusal.value)
        assert "\n" not in sentence
        assert "cannot be used" in sentence
        assert "ss word" not in sentence
        assert "%20word" not in sentence


def test_a_search_and_its_resumption(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["search", "--network", "small", *SHORT, "--ledger", path, "--finalists", "0", "--name", "pg", "--json"]
    for command in (arguments, ["search", "--resume", "results/pg", "--json"]):
        monkeypatch.setattr("sys.argv", ["run_search.py", *command])
        with pytest.raises(SystemExit) as ended:
            run_search.main()
        assert ended.value.code == 0
        capsys.readouterr()
    (task,) = list_tasks(path)
    first = len(Ledger(path, task, TITLE).records())
    assert first > 5
    assert not (tmp_path / "results" / "ledger.db").exists()
