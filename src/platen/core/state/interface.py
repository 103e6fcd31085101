"""The interface of a project's state: documents, tables and locks.

A document is one JSON value that is replaced as a whole. Tables are for rows that several processes add to.
A lock is free again when its holder is gone, however it ended.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from platen.core.errors import PlatenError

Value = Any
"""Any value that JSON has, but null: None is a document that was never written."""
Row = tuple[Any, ...]
ColumnType = Literal["text", "integer", "real", "blob"]


class StateError(PlatenError):
    """The project's state can't be read or written."""

    exit_code = 4


class LockHeldError(StateError):
    """Another process holds a lock; `owner` says which."""

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(
            f"{owner} holds the lock '{name}' of this project",
            hint="Wait for it, or stop it; then try again.",
        )
        self.owner = owner


@dataclass(frozen=True)
class Column:
    """A column of a table; `integer` has 64 bits, `real` is a double."""

    name: str
    type: ColumnType
    required: bool = True


@dataclass(frozen=True)
class Table:
    """A table; `key` names the columns of its primary key."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """Tables that change together. `version` is raised when their columns change."""

    name: str
    version: int
    tables: tuple[Table, ...]


class Document(Protocol):
    """One JSON value. `shown` says where it is, as messages may have it."""

    shown: str

    def read(self) -> Value | None:
        """The value, or None when there is none. Raises StateError when it can't be read."""
        ...

    def update(self, change: Callable[[Value | None], Value]) -> None:
        """Replace the value by what `change` makes of it, with no other writer in between.

        A value that can't be read counts as none. A reader sees the old value or the new one. Raises
        StateError when it can't be written.
        """
        ...

    def delete(self) -> None:
        """Remove the value, if there is one. Raises StateError."""
        ...

    def revision(self) -> Hashable:
        """Another value whenever the document was written. Raises StateError."""
        ...


class Connection(Protocol):
    """A transaction. SQL is what SQLite and PostgreSQL both take, with values by name as `:name`."""

    def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]: ...

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None: ...


class Tables(Protocol):
    """The tables of one schema, made when they are first used. Everything raises StateError."""

    shown: str

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that only reads; makes no file."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """The only writer; committed when the block ends well, else rolled back."""
        ...

    def revision(self) -> Hashable:
        """Another value whenever something was written; cheap enough to ask every second."""
        ...


class State(Protocol):
    """A project's state. `shared` tells whether other machines see it too."""

    shown: str
    shared: bool

    def document(self, name: str, *, private: bool = False) -> Document:
        """The document of that name; a `private` one is for its owner's eyes alone."""
        ...

    def tables(self, schema: Schema) -> Tables: ...

    def lock(
        self, name: str, *, waiting: Callable[[str], None] = ..., timeout: float = -1
    ) -> AbstractContextManager[None]:
        """Hold the lock for the block's time.

        When another holds it, `waiting` is told once who, as `process 17`; raises LockHeldError after
        `timeout` seconds (-1: never).
        """
        ...


def this_process(*, with_host: bool) -> str:
    """This process as the owner of a lock."""
    return f"process {os.getpid()}" + (f" on {socket.gethostname()}" if with_host else "")
