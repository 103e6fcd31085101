"""Keys and what they have used, in two tables of a project's state.

`platen keys` writes them and any number of servers read them: of one machine, or of several where the state
is shared. Usage is kept by key and calendar month (UTC); servers add what they have counted, so that several
may count for the same key.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from platen.core.errors import PlatenError
from platen.core.state.interface import Column, Connection, Schema, State, Table
from platen.serve.access.keys import ApiKey, Grant, Limits, Scope, new_key

_KEYS = Table(
    "keys",
    (
        *(Column(name, "text") for name in ("id", "name", "tenant", "scopes", "models", "priority")),
        *(Column(name, "integer", False) for name in ("requests_per_minute", "tokens_per_minute", "tokens")),
        Column("money", "real", False),
        *(Column(name, "blob") for name in ("salt", "digest")),
        Column("created", "text"),
        *(Column(name, "text", False) for name in ("expires", "revoked")),
    ),
    ("id",),
)
_USAGE = Table(
    "usage",
    (
        *(Column(name, "text") for name in ("key_id", "month")),
        *(Column(name, "integer") for name in ("requests", "prompt_tokens", "completion_tokens")),
        Column("money", "real"),
    ),
    ("key_id", "month"),
)
SCHEMA = Schema("keys", 1, (_KEYS, _USAGE))
_COLUMNS = ", ".join(column.name for column in _KEYS.columns)


class KeyStoreError(PlatenError):
    """A key can't be made or found."""


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


def month_of(moment: datetime) -> str:
    """The month that a budget is for, as 2026-11."""
    here = moment.astimezone(UTC)
    return f"{here.year}-{here.month:02}"


class KeyStore:
    """The keys in a project's state. Everything raises StateError when that can't be read or written."""

    def __init__(self, state: State) -> None:
        self._tables = state.tables(SCHEMA)

    def create(self, grant: Grant) -> tuple[ApiKey, str]:
        """Keep a new key; returns it and its text. Names of keys in use are unique: raises KeyStoreError."""
        key, text = new_key(grant)
        with self._tables.writing() as database:
            if _active(database, grant.name):
                raise KeyStoreError(
                    f"there is a key named '{grant.name}' already",
                    hint="Choose another name, or revoke that one first.",
                )
            values = ", ".join(f":{column.name}" for column in _KEYS.columns)
            database.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES ({values})", _row(key))
        return key, text

    def revoke(self, name_or_id: str) -> ApiKey:
        """Make a key invalid, for good. Raises KeyStoreError when none is called that."""
        with self._tables.writing() as database:
            found = _active(database, name_or_id)
            if not found:
                raise KeyStoreError(f"there is no key '{name_or_id}' in use", hint="platen keys list")
            database.execute(
                "UPDATE keys SET revoked = :now WHERE id = :id",
                {"now": datetime.now(UTC).isoformat(), "id": found[0].id},
            )
        return found[0]

    def read(self) -> Snapshot:
        """All keys, the oldest first, and this month's usage."""
        with self._tables.reading() as database:
            return _read(database, month_of(datetime.now(UTC)))

    def revision(self) -> Hashable:
        """Another value whenever keys or usage were written; cheap enough to ask every second."""
        return self._tables.revision()

    def add(self, spent: Mapping[tuple[str, str], Spent]) -> Snapshot:
        """Add what was used, by key and month; returns what is there then."""
        with self._tables.writing() as database:
            database.execute_many(
                "INSERT INTO usage (key_id, month, requests, prompt_tokens, completion_tokens, money) "
                "VALUES (:key_id, :month, :requests, :prompt_tokens, :completion_tokens, :money) "
                "ON CONFLICT (key_id, month) DO UPDATE SET "
                "requests = usage.requests + excluded.requests, "
                "prompt_tokens = usage.prompt_tokens + excluded.prompt_tokens, "
                "completion_tokens = usage.completion_tokens + excluded.completion_tokens, "
                "money = usage.money + excluded.money",
                [{"key_id": key_id, "month": month, **asdict(one)} for (key_id, month), one in spent.items()],
            )
            return _read(database, month_of(datetime.now(UTC)))


def _active(database: Connection, name_or_id: str) -> list[ApiKey]:
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM keys WHERE (name = :wanted OR id = :wanted) AND revoked IS NULL",
        {"wanted": name_or_id},
    )
    return list(_keys(rows))


def _read(database: Connection, month: str) -> Snapshot:
    rows = database.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created")
    keys = {key.id: key for key in _keys(rows)}
    rows = database.execute(
        "SELECT key_id, requests, prompt_tokens, completion_tokens, money FROM usage WHERE month = :month",
        {"month": month},
    )
    return Snapshot(keys, month, {key_id: Spent(*figures) for key_id, *figures in rows})


def _row(key: ApiKey) -> dict[str, Any]:
    grant = key.grant
    return {
        "id": key.id,
        "name": grant.name,
        "tenant": grant.tenant,
        "scopes": json.dumps(sorted(grant.scopes)),
        "models": json.dumps(grant.models),
        "priority": grant.priority,
        **asdict(grant.limits),
        "salt": key.salt,
        "digest": key.digest,
        "created": key.created.isoformat(),
        "expires": None if grant.expires is None else grant.expires.isoformat(),
        "revoked": None,
    }


def _keys(rows: Iterable[tuple[Any, ...]]) -> Iterator[ApiKey]:
    for key_id, name, tenant, scopes, models, priority, *rest in rows:
        requests_per_minute, tokens_per_minute, tokens, money, salt, digest, created, expires, revoked = rest
        limits = Limits(requests_per_minute, tokens_per_minute, tokens, money)
        allowed = frozenset(Scope(scope) for scope in json.loads(scopes))
        grant = Grant(name, tenant, allowed, tuple(json.loads(models)), priority, limits, _time(expires))
        yield ApiKey(key_id, grant, salt, digest, datetime.fromisoformat(created), _time(revoked))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
