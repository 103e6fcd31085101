"""Items and judgements in one SQLite file. A judgement is on the disk before its annotator is told so.

Judgements are only ever added: the last of an annotator on an item counts, and one without a value takes
it back. So a process killed at any moment loses nothing that the page has shown as saved, and the history
stays.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platen.core.errors import DataError
from platen.data.labelling.items import Choice, Item, Judgement, TaskSet

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    position INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, text TEXT NOT NULL, answers TEXT NOT NULL,
    metadata TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS suggestions (item TEXT PRIMARY KEY REFERENCES items(id), value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS judgements (
    number INTEGER PRIMARY KEY, item TEXT NOT NULL REFERENCES items(id), annotator TEXT NOT NULL, value TEXT,
    text TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS judged ON judgements (annotator, item);
"""
# The last judgement of each annotator on each item, unless it takes the one before back.
_CURRENT = """
SELECT item, annotator, value, text, time FROM judgements
WHERE number IN (SELECT max(number) FROM judgements GROUP BY item, annotator) AND value IS NOT NULL
ORDER BY number
"""
_ADD = "INSERT INTO judgements (item, annotator, value, text, time) VALUES (?, ?, ?, ?, ?)"


class LabelStore:
    """One set of items and all that was said of them. Safe to share between threads."""

    def __init__(self, file: Path) -> None:
        """Open the file or make it. Raises DataError for one that is no such file."""
        self.file = file
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                file, check_same_thread=False, isolation_level=None, timeout=30
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # each commit is synced to the disk
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise DataError(
                f"{file} can't be opened for labels: {error}", hint="Name another file."
            ) from None

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock, closing(self._connection.execute(query, values)) as rows:
            return rows.fetchall()

    # -- what is asked ------------------------------------------------------------------------------

    def set_up(self, tasks: TaskSet) -> None:
        """Say what is asked. Raises DataError when the file asks something else already."""
        there = self.tasks()
        if there is not None and (there.task, there.choices) != (tasks.task, tasks.choices):
            raise DataError(
                f"{self.file} holds labels of another task: {there.task} with "
                f"{', '.join(choice.value for choice in there.choices)}",
                hint="Name another file with --db.",
            )
        about = {
            "title": tasks.title,
            "task": tasks.task,
            "choices": [vars(choice) for choice in tasks.choices],
        }
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO about VALUES ('tasks', ?)", (json.dumps(about),))

    def tasks(self) -> TaskSet | None:
        """What is asked; None in a new file."""
        rows = self._rows("SELECT value FROM about WHERE key = 'tasks'")
        if not rows:
            return None
        about = json.loads(rows[0][0])
        return TaskSet(about["title"], about["task"], tuple(Choice(**choice) for choice in about["choices"]))

    def add_items(self, items: Iterable[Item], judgements: Iterable[Judgement] = ()) -> int:
        """Add the items whose id is new with the judgements that came with them; how many items that were.

        What is there stays as it is, so that reading a file again changes nothing.
        """
        with self._writing() as connection:
            there = {id for (id,) in connection.execute("SELECT id FROM items")}
            new = {item.id: item for item in items if item.id not in there}
            rows = [
                (
                    item.id,
                    item.text,
                    json.dumps(item.answers),
                    json.dumps(dict(item.metadata), ensure_ascii=False),
                )
                for item in new.values()
            ]
            connection.executemany(
                "INSERT INTO items (id, text, answers, metadata) VALUES (?, ?, ?, ?)", rows
            )
            connection.executemany(_ADD, _rows_of(one for one in judgements if one.item in new))
        return len(new)

    def items(self) -> list[Item]:
        """All, in the order they were added."""
        rows = self._rows("SELECT id, text, answers, metadata FROM items ORDER BY position")
        return [
            Item(id, text, tuple(json.loads(answers)), json.loads(data)) for id, text, answers, data in rows
        ]

    def suggest(self, values: Mapping[str, str]) -> None:
        """What a model would say: item → value."""
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO suggestions VALUES (?, ?)", list(values.items()))

    def suggestions(self) -> dict[str, str]:
        return dict(self._rows("SELECT item, value FROM suggestions"))

    # -- what is said -------------------------------------------------------------------------------

    def judge(self, judgements: Iterable[Judgement]) -> None:
        """Add judgements; on the disk when this returns. One with an empty value takes the last one back."""
        with self._writing() as connection:
            connection.executemany(_ADD, _rows_of(judgements))

    def judgements(self) -> list[Judgement]:
        """What counts now: the last of each annotator on each item, in the order they were made."""
        return [Judgement(*row) for row in self._rows(_CURRENT)]


def _rows_of(judgements: Iterable[Judgement]) -> list[tuple[str | None, ...]]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return [(one.item, one.annotator, one.value or None, one.text, one.time or now) for one in judgements]
