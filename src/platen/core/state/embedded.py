"""State in a project's `.platen` folder: JSON files, SQLite files and file locks.

It is for the processes of one machine: file locks and SQLite are not to be trusted on network folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.files import write_atomic
from platen.core.state.interface import (
    Connection,
    LockHeldError,
    Row,
    Schema,
    StateError,
    Table,
    Value,
)

if TYPE_CHECKING:
    import sqlite3

    from filelock import FileLock

STATE_FOLDER = ".platen"
BUSY_SECONDS = 5.0
POLL_SECONDS = 0.2
_DOCUMENTS_LOCK = "documents.lock"


class EmbeddedState:
    """The state in `project_dir/.platen`; nothing is made there before the first write."""

    shared = False

    def __init__(self, project_dir: Path) -> None:
        self.folder = project_dir / STATE_FOLDER
        self.shown = str(self.folder)

    def document(self, name: str, *, private: bool = False) -> EmbeddedDocument:
        return EmbeddedDocument(self.folder / f"{name}.json", 0o600 if private else 0o666)

    def tables(self, schema: Schema) -> EmbeddedTables:
        return EmbeddedTables(self.folder / f"{schema.name}.db", schema)

    @contextmanager
    def lock(
        self, name: str, *, waiting: Callable[[str], None] = lambda _: None, timeout: float = -1
    ) -> Iterator[None]:
        """A lock on the file `NAME.lock`, freed by the kernel when its holder ends; `NAME.pid` says who."""
        from filelock import FileLock

        lock, holder = FileLock(self.folder / f"{name}.lock"), self.folder / f"{name}.pid"
        try:
            self._acquire(name, lock, holder, waiting, timeout)
            yield
        finally:
            if lock.is_locked:
                holder.unlink(missing_ok=True)
                lock.release()

    def _acquire(
        self, name: str, lock: FileLock, holder: Path, waiting: Callable[[str], None], timeout: float
    ) -> None:
        from filelock import Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                owner = f"process {holder.read_text().strip() if holder.is_file() else '?'}"
                waiting(owner)
                try:
                    lock.acquire(timeout=timeout, poll_interval=POLL_SECONDS)
                except Timeout:
                    raise LockHeldError(name, owner) from None
            holder.write_text(str(os.getpid()))
        except OSError as error:
            raise _refused(self.folder, error) from error


class EmbeddedDocument:
    """A JSON file; `mode` are its permissions, less the umask."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path, self.shown = path, str(path)
        self._mode = mode

    def read(self) -> Value | None:
        try:
            return json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StateError(
                f"{self.path} can't be read: {reason}", hint="Restore it from a backup, or move it away."
            ) from None

    def update(self, change: Callable[[Value | None], Value]) -> None:
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.parent / _DOCUMENTS_LOCK, timeout=BUSY_SECONDS):
                try:
                    before = self.read()
                except StateError:
                    before = None
                write_atomic(self.path, json.dumps(change(before), indent=1).encode(), mode=self._mode)
        except Timeout:
            raise LockHeldError(_DOCUMENTS_LOCK, "another process") from None
        except OSError as error:
            raise _refused(self.path, error) from error

    def delete(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(self.path, error) from error

    def revision(self) -> Hashable:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(self.path, error) from error
        return (status.st_ino, status.st_size, status.st_mtime_ns)  # each write makes a new file


class EmbeddedTables:
    """An SQLite file for its owner alone, with a write-ahead log so that readers wait for no writer."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.shown = path, str(path)
        self._schema = schema

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._connected(self.path if self.path.exists() else ":memory:") as database:
            yield _SqliteConnection(database)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch(mode=0o600)
        except OSError as error:
            raise _refused(self.path, error) from error
        with self._connected(self.path) as database, database:
            database.execute("BEGIN IMMEDIATE")
            yield _SqliteConnection(database)

    def revision(self) -> Hashable:
        """Costs two look-ups of the files' times."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)

    @contextmanager
    def _connected(self, place: Path | str) -> Iterator[sqlite3.Connection]:
        import sqlite3

        try:
            with closing(sqlite3.connect(place, timeout=BUSY_SECONDS)) as database:
                self._prepare(database)
                yield database
        except sqlite3.Error as error:
            raise StateError(
                f"{self.path}: {error}", hint="Is it a file of Platen's, and may you write it?"
            ) from None

    def _prepare(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == self._schema.version:
            return
        if version != 0:
            raise StateError(f"{self.path} was written by a newer Platen", hint="Update this one.")
        database.execute("PRAGMA journal_mode = WAL")
        tables = "".join(_definition(table) for table in self._schema.tables)
        database.executescript(f"{tables} PRAGMA user_version = {self._schema.version};")


class _SqliteConnection:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        return self._database.execute(sql, values or {}).fetchall()

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        self._database.executemany(sql, values)


def _definition(table: Table) -> str:
    columns = [
        f"{column.name} {column.type.upper()}{' NOT NULL' if column.required else ''}"
        for column in table.columns
    ]
    key = f"PRIMARY KEY ({', '.join(table.key)})"
    return f"CREATE TABLE IF NOT EXISTS {table.name} ({', '.join([*columns, key])}) STRICT;"


def _refused(path: Path, error: OSError) -> StateError:
    return StateError(f"{path}: {error.strerror}", hint="May you write there, and has the disk room?")
