"""Where a ledger lies, and the password that opens it: the two part at the entrance.

A location may be a URL with a password. Configurations, files, messages and printed commands have the location alone;
the password stays in the memory of this process. Another process asks the environment for it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from models.errors import UserError

if TYPE_CHECKING:  # sqlalchemy is imported where a URL is given: most commands never meet one
    from sqlalchemy.engine import URL

LEDGER_FILE = "ledger.db"

_SECRET_KEY = re.compile(r"pass(?!file)|pwd|secret|token|odbc_connect", re.IGNORECASE)  # of a URL's query
# What was meant as a URL though `://` is missing: `postgresql:/user@host`, `user:secret@host/name`, and libpq's form
# `host=... password=...`.
_NEARLY_A_URL = re.compile(
    r"[a-z][a-z0-9+.-]+:/|(postgres|mysql|mariadb)\w*[:/@].*@|[^/\s]*:[^/]*@|(.*\s)?(password|passwd|pwd)\s*=",
    re.IGNORECASE,
)
_SHORTEST = 3  # characters of a password that is looked for in foreign texts
_LIBPQ = ("psycopg", "psycopg2", "psycopg2cffi")  # these drivers read PGPASSWORD and ~/.pgpass themselves
_WAYS = "give a file, or scheme://user:password@host/name with special characters as %XX"
_urls: dict[str, URL] = {}  # public location -> the URL as it was given
_passwords: set[str] = set()  # in every spelling that was met


def usual_ledger(results: str | Path) -> Path:
    """Where the ledger of a results folder lies, if no other is named."""
    return Path(results) / LEDGER_FILE


def public_location(location: str | Path) -> str:
    """The location without its passwords, which this process remembers.

    Raises:
        UserError: it is no URL although it looks like one; what was given is not repeated, it may hold a password.
    """
    text = str(location)
    if "://" not in text:
        if _NEARLY_A_URL.match(text) and not os.path.exists(text):
            raise UserError(f"a ledger was given that looks like a URL and is none; {_WAYS}")
        return text
    url = _parse_url(text)
    stripped = _strip_passwords(url)
    if stripped == url:
        return text
    _remember_passwords(text, url, stripped)
    public = stripped.render_as_string(hide_password=False)
    _urls[public] = url
    return public


def full_url(location: str | Path) -> URL:
    """The URL of a location, with its password if this process was given it or the environment has it."""
    public = public_location(location)
    return _add_environment_password(_urls.get(public) or _parse_url(public))


def scrub_passwords(text: str) -> str:
    """A foreign text without the passwords that this process was given."""
    for password in sorted(_passwords, key=len, reverse=True):
        text = text.replace(password, "***")
    return text


def missing_password(url: URL, reason: str) -> str | None:
    """A sentence if a server refused because it was given no password; None if that is not why."""
    if url.password or not re.search(r"no password supplied|using password: NO", reason):
        return None
    mysql = url.get_backend_name() in ("mysql", "mariadb")
    way = "set MYSQL_PWD in the environment" if mysql else "set PGPASSWORD in the environment or write it in ~/.pgpass"
    return f"asks for a password, which no file of a run holds; {way}"


def _parse_url(text: str) -> URL:
    """The URL that a text is. SQLAlchemy takes an unescaped `@` or `/` of a password for another part: refused."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme = text.partition("://")[0]
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UserError(f"cannot read the ledger URL that begins with {scheme!r}; {_WAYS}") from None
    misread = ":" in (url.username or "") or "@" in (url.host or "")
    if misread or (url.get_backend_name() != "sqlite" and re.search("[:@]", url.database or "")):
        raise UserError(f"cannot read the ledger URL that begins with {scheme!r}; {_WAYS}")
    return url


def _strip_passwords(url: URL) -> URL:
    query = {key: value for key, value in url.query.items() if not _SECRET_KEY.search(key)}
    return url.create(url.drivername, url.username, None, url.host, url.port, url.database, query)


def _add_environment_password(url: URL) -> URL:
    """The URL with what its driver does not look up by itself."""
    if url.password is not None or any(_SECRET_KEY.search(key) for key in url.query):
        return url
    backend, _, driver = url.drivername.partition("+")
    variable = {"mysql": "MYSQL_PWD", "mariadb": "MYSQL_PWD", "postgresql": "PGPASSWORD"}.get(backend)
    if variable is None or (backend == "postgresql" and (not driver or driver in _LIBPQ)):
        return url
    return url.set(password=os.environ[variable]) if os.environ.get(variable) else url


def _remember_passwords(text: str, url: URL, stripped: URL) -> None:
    """Every spelling of the passwords in a URL: as they are, and percent-encoded in the ways that are usual."""
    values = [str(url.password)] if url.password else []
    for key in set(url.query) - set(stripped.query):
        value = url.query[key]
        values += [value] if isinstance(value, str) else list(value)
    written = re.search(r"://[^:/]*:([^@]*)@", text)
    spellings = {written[1]} if written else set()
    for value in values:
        spellings |= {value, quote(value, safe=""), quote(value), quote_plus(value)}
    _passwords.update(spelling for spelling in spellings if len(spelling) >= _SHORTEST)
