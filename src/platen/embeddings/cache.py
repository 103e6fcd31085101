"""Vectors that were computed before, by the hash of model, prompt and text, in one SQLite file of this user.

Any number of processes may use it; one that is killed leaves whole vectors or none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.embeddings.stamp import Stamp
from platen.errors import ArtifactError
from platen.models.store import cache_folder

Vector = NDArray[np.float32]
_WAIT_SECONDS = 60
_ASKED_AT_ONCE = 500


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
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, cut INTEGER, vector BLOB)"
                    " WITHOUT ROWID"
                )

    def get(self, keys: Sequence[bytes], dimensions: int) -> dict[bytes, tuple[Vector, bool]]:
        """What is known of the keys. Raises ArtifactError."""
        found = {}
        for begin in range(0, len(keys), _ASKED_AT_ONCE):
            part = keys[begin : begin + _ASKED_AT_ONCE]
            query = f"SELECT key, vector, cut FROM vectors WHERE key IN ({','.join('?' * len(part))})"
            with self._errors():
                rows = self._db.execute(query, part).fetchall()
            for key, raw, cut in rows:
                vector = np.frombuffer(raw, dtype="<f4").astype(np.float32)
                if len(vector) == dimensions:
                    found[key] = (vector, bool(cut))
        return found

    def put(self, vectors: Mapping[bytes, tuple[Vector, bool]]) -> None:
        """Keep vectors, all or none of them. Raises ArtifactError."""
        rows = [(key, cut, vector.astype("<f4").tobytes()) for key, (vector, cut) in vectors.items()]
        with self._errors(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO vectors (key, cut, vector) VALUES (?, ?, ?)", rows)

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
