"""Keys and what they have used, in one SQLite file in a project's `.platen/`.

`platen keys` writes it and any number of servers on the machine read it. Usage is kept by key and calendar
month (UTC); servers add what they have counted, so that several may count for the same key.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platen.core.errors import PlatenError
from platen.serve.access.keys import ApiKey, Grant, Limits, Scope, new_key

_FORMAT = 1
_WAIT_SECONDS = 5.0
_TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL, scopes TEXT NOT NULL, models TEXT NOT NULL,
    priority TEXT NOT NULL,
    requests_per_minute INTEGER, tokens_per_minute INTEGER, tokens INTEGER, money REAL,
    salt BLOB NOT NULL, digest BLOB NOT NULL, created TEXT NOT NULL, expires TEXT, revoked TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS usage (
    key_id TEXT NOT NULL, month TEXT NOT NULL, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, money REAL NOT NULL, PRIMARY KEY (key_id, month)
) STRICT;
"""


class KeyStoreError(PlatenError):
    """A key can't be made or found, or the file of keys can't be used."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a key has used: requests, tokens, money at the project's prices."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.money + other.money,
        )


@dataclass(frozen=True)
class Snapshot:
    """All keys by id, and what each has used in the month."""

    keys: Mapping[str, ApiKey]
    month: str
    spent: Mapping[str, Spent]


def key_file(project_dir: Path) -> Path:
    """Where a project's keys are kept."""
    return project_dir / ".platen" / "keys.db"


def month_of(moment: datetime) -> str:
    """The month that a budget is for, as 2026-11."""
    here = moment.astimezone(UTC)
    return f"{here.year}-{here.month:02}"


class KeyStore:
    """The file at `path`; made when it is first written, for its owner alone. Raises KeyStoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, grant: Grant) -> tuple[ApiKey, str]:
        """Keep a new key; returns it and its text. Names of keys in use are unique."""
        key, text = new_key(grant)
        limits = grant.limits
        with self._writing() as database:
            if _active(database, grant.name):
                raise KeyStoreError(
                    f"there is a key named '{grant.name}' already",
                    hint="Choose another name, or revoke that one first.",
                )
            database.execute(
                f"INSERT INTO keys VALUES ({', '.join('?' * 15)})",
                (
                    key.id,
                    grant.name,
                    grant.tenant,
                    json.dumps(sorted(grant.scopes)),
                    json.dumps(grant.models),
                    grant.priority,
                    limits.requests_per_minute,
                    limits.tokens_per_minute,
                    limits.tokens,
                    limits.money,
                    key.salt,
                    key.digest,
                    key.created.isoformat(),
                    None if grant.expires is None else grant.expires.isoformat(),
                    None,
                ),
            )
        return key, text

    def revoke(self, name_or_id: str) -> ApiKey:
        """Make a key invalid, for good."""
        with self._writing() as database:
            found = _active(database, name_or_id)
            if not found:
                raise KeyStoreError(f"there is no key '{name_or_id}' in use", hint="platen keys list")
            revoked = datetime.now(UTC).isoformat()
            database.execute("UPDATE keys SET revoked = ? WHERE id = ?", (revoked, found[0].id))
        return found[0]

    def read(self) -> Snapshot:
        """All keys, the oldest first, and this month's usage."""
        month = month_of(datetime.now(UTC))
        if not self.path.exists():
            return Snapshot({}, month, {})
        with self._connected() as database:
            return _read(database, month)

    def version(self) -> tuple[int, ...]:
        """Another number whenever the file has changed; costs two look-ups of its times."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)

    def add(self, spent: Mapping[tuple[str, str], Spent]) -> Snapshot:
        """Add what was used, by key and month; returns what is there then."""
        with self._writing() as database:
            database.executemany(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key_id, month) DO UPDATE SET "
                "requests = requests + excluded.requests, "
                "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                "completion_tokens = completion_tokens + excluded.completion_tokens, "
                "money = money + excluded.money",
                [
                    (key_id, month, s.requests, s.prompt_tokens, s.completion_tokens, s.money)
                    for (key_id, month), s in spent.items()
                ],
            )
            return _read(database, month_of(datetime.now(UTC)))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed unless it raises."""
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch(mode=0o600)
        except OSError as error:
            raise KeyStoreError(f"{self.path}: {error.strerror}", hint="May you write there?") from None
        with self._connected() as database, database:
            database.execute("BEGIN IMMEDIATE")
            yield database

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS)) as database:
                _prepare(database, self.path)
                yield database
        except sqlite3.Error as error:
            raise KeyStoreError(
                f"{self.path}: {error}", hint="Is it a file of keys, and may you write it?"
            ) from None


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == _FORMAT:
        return
    if version != 0:
        raise KeyStoreError(f"{path} was written by a newer Platen", hint="Update this one.")
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(f"{_TABLES} PRAGMA user_version = {_FORMAT};")


def _active(database: sqlite3.Connection, name_or_id: str) -> list[ApiKey]:
    rows = database.execute(
        "SELECT * FROM keys WHERE (name = ? OR id = ?) AND revoked IS NULL", (name_or_id, name_or_id)
    )
    return list(_keys(rows))


def _read(database: sqlite3.Connection, month: str) -> Snapshot:
    keys = {key.id: key for key in _keys(database.execute("SELECT * FROM keys ORDER BY created"))}
    rows = database.execute(
        "SELECT key_id, requests, prompt_tokens, completion_tokens, money FROM usage WHERE month = ?",
        (month,),
    )
    return Snapshot(keys, month, {key_id: Spent(*figures) for key_id, *figures in rows})


def _keys(rows: Iterable[tuple[Any, ...]]) -> Iterator[ApiKey]:
    for key_id, name, tenant, scopes, models, priority, *rest in rows:
        requests_per_minute, tokens_per_minute, tokens, money, salt, digest, created, expires, revoked = rest
        limits = Limits(requests_per_minute, tokens_per_minute, tokens, money)
        allowed = frozenset(Scope(scope) for scope in json.loads(scopes))
        grant = Grant(name, tenant, allowed, tuple(json.loads(models)), priority, limits, _time(expires))
        yield ApiKey(key_id, grant, salt, digest, datetime.fromisoformat(created), _time(revoked))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
