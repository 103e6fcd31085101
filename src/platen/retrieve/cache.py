"""Vectors that were computed before, by the hash of model, prompt and text, in one SQLite file of this user.

Any number of processes may use it; one that is killed leaves whole vectors or none.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import ArtifactError
from platen.models.store import cache_folder
from platen.retrieve.stamp import Stamp

Vector = NDArray[np.float32]
_WAIT_SECONDS = 60
_ASKED_AT_ONCE = 500
MOST_BYTES = 10 * 10**9
"""What a run leaves behind at most: some six million vectors of 384 numbers."""
_TOUCHED_AFTER_SECONDS = 3600
"""Reading is to write little: a use within the hour after the last is not written down."""


def text_key(stamp: Stamp, text: str) -> bytes:
    """What a text's vector depends on, as 32 bytes."""
    parts = (stamp.fingerprint, stamp.prompt, text)
    return sha256(b"".join(sha256(part.encode()).digest() for part in parts)).digest()


class VectorCache:
    """Vectors (C,) and whether their text was cut, by key. To be closed."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises ArtifactError when the file can't be used."""
        self._file = file or cache_folder() / "vectors.db"
        with self._errors():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._file, timeout=_WAIT_SECONDS)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")  # no two processes change the table at once
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, cut INTEGER, vector BLOB,"
                    " used INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID"
                )
                columns = self._db.execute("SELECT name FROM pragma_table_info('vectors')").fetchall()
                if ("used",) not in columns:  # made before there was a bound
                    self._db.execute("ALTER TABLE vectors ADD COLUMN used INTEGER NOT NULL DEFAULT 0")

    @property
    def file(self) -> Path:
        return self._file

    def get(self, keys: Sequence[bytes], dimensions: int) -> dict[bytes, tuple[Vector, bool]]:
        """What is known of the keys. Raises ArtifactError."""
        found = {}
        now = int(time.time())
        for begin in range(0, len(keys), _ASKED_AT_ONCE):
            part = keys[begin : begin + _ASKED_AT_ONCE]
            asked = f"key IN ({','.join('?' * len(part))})"
            with self._errors(), self._db:
                rows = self._db.execute(
                    f"SELECT key, vector, cut, used FROM vectors WHERE {asked}", part
                ).fetchall()
                if any(used < now - _TOUCHED_AFTER_SECONDS for *_, used in rows):
                    self._db.execute(f"UPDATE vectors SET used = ? WHERE {asked}", [now, *part])
            for key, raw, cut, _ in rows:
                vector = np.frombuffer(raw, dtype="<f4").astype(np.float32)
                if len(vector) == dimensions:
                    found[key] = (vector, bool(cut))
        return found

    def put(self, vectors: Mapping[bytes, tuple[Vector, bool]]) -> None:
        """Keep vectors, all or none of them. Raises ArtifactError."""
        now = int(time.time())
        rows = [(key, cut, vector.astype("<f4").tobytes(), now) for key, (vector, cut) in vectors.items()]
        with self._errors(), self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO vectors (key, cut, vector, used) VALUES (?, ?, ?, ?)", rows
            )

    def __len__(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def size(self) -> int:
        """Bytes that the vectors take in the file. Raises ArtifactError."""
        with self._errors():
            pages, free, bytes_ = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * bytes_

    def shrink(self, most: int) -> int:
        """Take out those unused for longest until the rest is within `most` bytes, 0 being none; how many.

        The file keeps its size, for what comes next. Raises ArtifactError.
        """
        removed = 0
        while (size := self.size()) > most and (rows := len(self)):
            count = math.ceil(rows * (1 - most / size))
            with self._errors(), self._db:
                self._db.execute(
                    "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors ORDER BY used LIMIT ?)",
                    [count],
                )
            removed += count
        return removed

    def compact(self) -> None:
        """Make the file as small as what is in it. Raises ArtifactError."""
        with self._errors():
            self._db.execute("VACUUM")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ArtifactError(
                f"the cache of vectors {self._file} can't be used: {error}",
                hint="Remove the file, set PLATEN_CACHE to a folder that can be written, or use --no-cache.",
            ) from None
