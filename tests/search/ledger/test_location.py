"""Passwords of ledgers part from their locations at the entrance, whatever way they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import run_search
from models.errors import UserError
from search import api
from search.engine.run_folder import resumed_config
from search.ledger.location import full_url, public_location, scrub_passwords
from search.ledger.storage import open_storage, storage_url
from search.settings.config import RunConfig

SECRET = "Tr0ub4dor"
# location -> what may be shown of it
GIVEN = {
    f"postgresql://me:{SECRET}@host:5433/db": "postgresql://me@host:5433/db",
    f"postgresql://host/db?user=me&password={SECRET}": "postgresql://host/db?user=me",
    f"postgresql+psycopg://me@host/db?sslpassword={SECRET}&sslmode=require": "postgresql+psycopg://me@host/db?sslmode=require",
    f"mysql+pymysql://me:{SECRET}%40%2F@host/db": "mysql+pymysql://me@host/db",
    f"mysql://me@host/db?passwd={SECRET}": "mysql://me@host/db",
}  # fmt: skip
OPEN = ["results/ledger.db", "sqlite:///results/ledger.db", "postgresql://me@host/db?passfile=%2Fhome%2Fme%2Fpass"]
MALFORMED = [
    f"postgresql://me:{SECRET}@host:port/db", f"postgresql:/me:{SECRET}@host/db", f"postgresql//me:{SECRET}@host/db",
    f"me:{SECRET}@host/db", f"postgresql://me:@{SECRET}@host/db", f"://me:{SECRET}@host/db",
    f"postgresql://me%3A{SECRET}@host/db", f"postgresql://m/e:{SECRET}@host/db", f"mysql:me:{SECRET}@host",
    f"nosuch://me:{SECRET}@host/db", f"mysql+nosuch://me:{SECRET}@host/db",
    f"host=h user=me password={SECRET} dbname=d", f"password = {SECRET} host=h",
]  # fmt: skip


@pytest.mark.parametrize(("location", "public"), GIVEN.items())
def test_the_password_is_known_to_this_process_alone(location: str, public: str) -> None:
    assert public_location(location) == public
    assert SECRET in full_url(public).render_as_string(hide_password=False)
    assert SECRET not in scrub_passwords(f"of the driver: {location}")
    config = RunConfig.model_validate({"task": {"network": "small"}, "name": "x", "ledger": location})
    assert config.ledger == public
    assert SECRET not in repr(config) + config.model_dump_json()


@pytest.mark.parametrize("location", OPEN)
def test_locations_without_a_password_stay_as_they_are(location: str) -> None:
    assert public_location(location) == location


@pytest.mark.parametrize("location", MALFORMED)
def test_what_cannot_be_read_is_not_repeated(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: open_storage(location),
        lambda: api.search("small", ledger=location, show=False),
        lambda: api.leaderboard(ledger=location),
    ):
        with pytest.raises(UserError) as refusal:
            call()
        assert SECRET not in str(refusal.value)
    if "nosuch" not in location:  # a scheme of its own may be a driver that is not installed here
        with pytest.raises(ValueError, match="URL") as invalid:
            RunConfig.model_validate({"task": {"network": "small"}, "name": "x", "ledger": location})
        assert SECRET not in str(invalid.value)


def test_a_run_of_an_earlier_version_with_its_password(tmp_path: Path) -> None:
    location = f"postgresql://me:{SECRET}@host/old"
    config = RunConfig(task={"network": "small"}, name="run").model_dump(mode="json") | {"ledger": location}
    (tmp_path / "run.json").write_text(json.dumps({"schema": 2, "config": config}))
    assert resumed_config(tmp_path).ledger == "postgresql://me@host/old"
    assert full_url("postgresql://me@host/old").password == SECRET


def test_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYSQL_PWD", SECRET)
    assert full_url("mysql+pymysql://me@elsewhere/db").password == SECRET
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert storage_url("postgresql://me@elsewhere/db").password is None  # libpq looks there itself
    assert full_url("postgresql+pg8000://me@elsewhere/db").password == SECRET


WATCHED = f"""
import os, subprocess, sys
sys.path.insert(0, {str(Path(run_search.__file__).parent)!r})
from search.terminal.arguments import take_arguments
typed = take_arguments()
subprocess.run(["ps", "-o", "args=", "-ww", "-p", str(os.getpid())])
print(sys.argv, [{SECRET!r} in word for word in typed])
"""


@pytest.mark.parametrize("location", [*GIVEN, *MALFORMED])
def test_ps_shows_no_password(tmp_path: Path, location: str) -> None:
    (tmp_path / "watched.py").write_text(WATCHED)
    for words in (["--ledger", location], [f"--ledger={location}"]):
        command = [sys.executable, "watched.py", "search", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert SECRET not in done.stdout
        assert "watched.py search --ledger" in done.stdout
        assert "True" in done.stdout, done.stderr
