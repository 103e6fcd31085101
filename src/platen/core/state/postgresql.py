"""State in a PostgreSQL database, which several machines share.

Each project has a database schema of its own, made when it is first used. Locks are PostgreSQL's advisory
locks: they belong to a connection, so a holder that is killed or loses its machine frees them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from platen.core.errors import MissingExtraError, last_line
from platen.core.state.interface import (
    Connection,
    LockHeldError,
    Row,
    Schema,
    StateError,
    Table,
    Value,
    this_process,
)
from platen.core.urls import shown, without_secrets

if TYPE_CHECKING:
    import sqlalchemy

POLL_SECONDS = 0.2
CONNECT_SECONDS = 10
_NAME_BYTES = 63
_TYPES = {"text": "TEXT", "integer": "BIGINT", "real": "DOUBLE PRECISION", "blob": "BYTEA"}
_OWN_TABLES = (
    "CREATE TABLE documents (name TEXT PRIMARY KEY, value TEXT NOT NULL, revision BIGINT NOT NULL)",
    "CREATE TABLE schemas (name TEXT PRIMARY KEY, version BIGINT NOT NULL, revision BIGINT NOT NULL)",
    "CREATE TABLE locks (name TEXT PRIMARY KEY, owner TEXT NOT NULL)",
)
_KEEPALIVE = {"idle": 30, "interval": 10, "count": 3}
"""Seconds, seconds, tries: after a minute either side knows that the other's machine is gone."""


class PostgresState:
    """The state of `project` in the database at `url`; connects when first used.

    Locks need connections that stay: not through a proxy that pools transactions. Raises MissingExtraError.
    """

    shared = True

    def __init__(self, url: str, project: str) -> None:
        try:
            import psycopg  # noqa: F401
            import sqlalchemy
        except ModuleNotFoundError as error:
            raise MissingExtraError("postgres", "state: postgresql://") from error
        self.shown = shown(url)
        self.url = url
        self.schema = schema_name(project)
        _, _, rest = url.partition("://")
        self._engine = sqlalchemy.create_engine(
            f"postgresql+psycopg://{rest}",
            pool_pre_ping=True,
            pool_size=2,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": f"platen {project}",
                **{f"keepalives_{name}": value for name, value in _KEEPALIVE.items()},
            },
        )
        self._ready = False

    def document(self, name: str, *, private: bool = False) -> PostgresDocument:
        return PostgresDocument(self, name)

    def tables(self, schema: Schema) -> PostgresTables:
        return PostgresTables(self, schema)

    @contextmanager
    def lock(
        self, name: str, *, waiting: Callable[[str], None] = lambda _: None, timeout: float = -1
    ) -> Iterator[None]:
        """A lock on a connection of its own; the table `locks` tells others who holds it."""
        with self.transaction():
            pass  # the tables are there
        with self._errors():
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # closing it ends it, whatever happened on it
        try:
            with self._errors():
                self._acquire(PostgresConnection(connection), name, waiting, timeout)
            yield
        finally:
            connection.close()

    def _acquire(
        self, connection: Connection, name: str, waiting: Callable[[str], None], timeout: float
    ) -> None:
        for setting, value in _KEEPALIVE.items():  # the server's side: it frees the locks of a lost machine
            connection.execute(f"SET tcp_keepalives_{setting} = {value}")
        key, started, told = {"key": self.key("lock", name)}, time.monotonic(), False
        while connection.execute("SELECT pg_try_advisory_lock(:key)", key) != [(True,)]:
            owner = self._owner(connection, name)
            if not told:
                waiting(owner)
                told = True
            if 0 <= timeout <= time.monotonic() - started:
                raise LockHeldError(name, owner)
            time.sleep(POLL_SECONDS)
        connection.execute(
            f'INSERT INTO "{self.schema}".locks VALUES (:name, :owner) '
            "ON CONFLICT (name) DO UPDATE SET owner = excluded.owner",
            {"name": name, "owner": this_process(with_host=True)},
        )

    def _owner(self, connection: Connection, name: str) -> str:
        rows = connection.execute(
            f'SELECT owner FROM "{self.schema}".locks WHERE name = :name', {"name": name}
        )
        return str(rows[0][0]) if rows else "another process"

    @contextmanager
    def transaction(self) -> Iterator[PostgresConnection]:
        """A transaction in which the project's tables go by their bare names. Raises StateError."""
        with self._errors(), self._engine.begin() as raw:
            connection = PostgresConnection(raw)
            if not self._ready:
                self._prepare(connection)
            # For this transaction alone, so that it may go through a proxy that pools them.
            connection.execute(f'SET LOCAL search_path TO "{self.schema}"')
            yield connection
            self._ready = True

    def _prepare(self, connection: PostgresConnection) -> None:
        """Make the schema and its tables unless they are there; one process at a time."""
        connection.lock(self.key("schema", ""))
        there = connection.execute("SELECT to_regclass(:name)", {"name": f'"{self.schema}".locks'})
        if there == [(None,)]:
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
            connection.execute(f'SET LOCAL search_path TO "{self.schema}"')
            for statement in _OWN_TABLES:
                connection.execute(statement)

    def key(self, kind: str, name: str) -> int:
        """The number of an advisory lock: 64 bits, signed."""
        digest = hashlib.sha256(f"{self.schema}/{kind}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StateError(
                f"{self.shown}: {without_secrets(last_line(cause), self.url)}",
                hint="Does the database run, and may this user make tables there?",
            ) from None


class PostgresConnection:
    """A transaction on SQLAlchemy's connection."""

    def __init__(self, raw: sqlalchemy.Connection) -> None:
        self._raw = raw

    def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        from sqlalchemy import text

        result = self._raw.execute(text(sql), dict(values or {}))
        return [tuple(row) for row in result] if result.returns_rows else []

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        from sqlalchemy import text

        if values:
            self._raw.execute(text(sql), [dict(row) for row in values])

    def lock(self, key: int) -> None:
        """Wait for an advisory lock and hold it until the transaction's end."""
        self.execute("SELECT pg_advisory_xact_lock(:key)", {"key": key})


class PostgresDocument:
    """A row of the table `documents`."""

    def __init__(self, state: PostgresState, name: str) -> None:
        self.shown = f"{state.shown} ({name})"
        self._state, self._name = state, name

    def read(self) -> Value | None:
        with self._state.transaction() as connection:
            return self._value(connection)

    def update(self, change: Callable[[Value | None], Value]) -> None:
        with self._state.transaction() as connection:
            connection.lock(self._state.key("document", self._name))
            try:
                before = self._value(connection)
            except StateError:
                before = None
            connection.execute(
                "INSERT INTO documents VALUES (:name, :value, 1) ON CONFLICT (name) "
                "DO UPDATE SET value = excluded.value, revision = documents.revision + 1",
                {"name": self._name, "value": json.dumps(change(before))},
            )

    def delete(self) -> None:
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE documents SET value = 'null', revision = revision + 1 WHERE name = :name",
                {"name": self._name},
            )

    def revision(self) -> Hashable:
        with self._state.transaction() as connection:
            rows = connection.execute(
                "SELECT revision FROM documents WHERE name = :name", {"name": self._name}
            )
        return rows[0][0] if rows else None

    def _value(self, connection: Connection) -> Value | None:
        rows = connection.execute("SELECT value FROM documents WHERE name = :name", {"name": self._name})
        try:
            return json.loads(rows[0][0]) if rows else None
        except ValueError as error:
            raise StateError(f"{self.shown} can't be read: {error}", hint="Delete that row.") from None


class PostgresTables:
    """Tables beside the project's documents."""

    def __init__(self, state: PostgresState, schema: Schema) -> None:
        self.shown = f"{state.shown} ({schema.name})"
        self._state, self._schema = state, schema
        self._ready = False

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._state.transaction() as connection:
            self._prepare(connection)
            yield connection
        self._ready = True

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self._state.transaction() as connection:
            connection.lock(self._state.key("tables", self._schema.name))
            self._prepare(connection)
            yield connection
            connection.execute(
                "UPDATE schemas SET revision = revision + 1 WHERE name = :name", {"name": self._schema.name}
            )
        self._ready = True

    def revision(self) -> Hashable:
        with self._state.transaction() as connection:
            rows = connection.execute(
                "SELECT revision FROM schemas WHERE name = :name", {"name": self._schema.name}
            )
        return rows[0][0] if rows else None

    def _prepare(self, connection: PostgresConnection) -> None:
        if self._ready:
            return
        known, name = "SELECT version FROM schemas WHERE name = :name", {"name": self._schema.name}
        if not connection.execute(known, name):
            connection.lock(self._state.key("tables", self._schema.name))
            if not connection.execute(known, name):
                for table in self._schema.tables:
                    connection.execute(_definition(table))
                connection.execute(
                    "INSERT INTO schemas VALUES (:name, :version, 0)",
                    {**name, "version": self._schema.version},
                )
        [(version,)] = connection.execute(known, name)
        if version != self._schema.version:
            raise StateError(f"{self.shown} was written by a newer Platen", hint="Update this one.")


def schema_name(project: str) -> str:
    """The database schema of a project; PostgreSQL's names have 63 bytes."""
    name = f"platen_{project}"
    if len(name.encode()) <= _NAME_BYTES:
        return name
    return f"{name[:46]}_{hashlib.sha256(project.encode()).hexdigest()[:16]}"


def _definition(table: Table) -> str:
    columns = [
        f"{column.name} {_TYPES[column.type]}{' NOT NULL' if column.required else ''}"
        for column in table.columns
    ]
    key = f"PRIMARY KEY ({', '.join(table.key)})"
    return f"CREATE TABLE {table.name} ({', '.join([*columns, key])})"
