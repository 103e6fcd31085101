"""A file of vectors: Parquet, a row a text, with the stamp of the model that made them in its schema.

Written beside its place and moved there when whole; read a batch at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from platen.core.errors import DataError, first_line
from platen.data.document import Document
from platen.data.readers.needs import needs
from platen.retrieve.embedders import Embedded, Vectors
from platen.retrieve.stamp import Stamp

_ROWS = 1024


@dataclass(frozen=True)
class Batch:
    """Some rows: documents and their vectors (N, C)."""

    documents: list[Document]
    vectors: Vectors


class VectorFile:
    """An existing file. Raises DataError when it can't be read or says no model."""

    def __init__(self, path: Path) -> None:
        needs("pyarrow", "a file of vectors")
        from pyarrow import parquet

        self.path = path
        with _readable(path):
            schema = parquet.read_schema(path)
            self.rows = int(parquet.read_metadata(path).num_rows)
        self.stamp = Stamp.read(schema.metadata, str(path))

    def batches(self) -> Iterator[Batch]:
        """All rows in order. Raises DataError where the file is damaged."""
        for part in self.tables():
            flat = part.column("vector").flatten().to_numpy(zero_copy_only=False)
            columns = (part.column(name).to_pylist() for name in ("id", "text", "source", "metadata"))
            documents = [Document(i, t, s, json.loads(m)) for i, t, s, m in zip(*columns, strict=True)]
            yield Batch(documents, flat.reshape(len(documents), self.stamp.dimensions))

    def tables(self) -> Iterator[Any]:
        """The rows as Arrow record batches."""
        from pyarrow import parquet

        with _readable(self.path), parquet.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=_ROWS, use_threads=False)


class VectorWriter:
    """Writes rows; the file is there when `finish` returns, and until then what was there before."""

    def __init__(self, path: Path, stamp: Stamp, *, append: bool = False) -> None:
        """`append` keeps the rows of the file that is there. Raises DataError when another model's are."""
        needs("pyarrow", "a file of vectors")
        from pyarrow import parquet

        self._path, self._append = path, append
        kept = VectorFile(path) if append and path.exists() else None
        if kept is not None:
            kept.stamp.check_same(stamp, str(path))
        self._before = _state(path)
        self._schema = _schema(stamp)
        _remove_leftovers(path)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._kept: set[bytes] = set()
        try:
            for table in kept.tables() if kept else ():
                self._writer.write_batch(table.cast(self._schema))
                rows = (table.column(name).to_pylist() for name in ("id", "source", "text"))
                self._kept.update(_row_key(*row) for row in zip(*rows, strict=True))
        except BaseException:
            self.discard()
            raise

    def __contains__(self, document: Document) -> bool:
        """Whether a row that was kept is of this document: with its id, source and text."""
        return _row_key(document.id, document.source, document.text) in self._kept

    def write(self, documents: Sequence[Document], embedded: Embedded) -> None:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(embedded.vectors).reshape(-1), type=pa.float32())
        columns = [
            [document.id for document in documents],
            [document.source for document in documents],
            [document.text for document in documents],
            [json.dumps(dict(document.metadata), ensure_ascii=False) for document in documents],
            embedded.cut,
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=False)]
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, embedded.vectors.shape[1]))
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def finish(self) -> None:
        """Put the file in its place. Raises DataError when another process changed it meanwhile."""
        self._writer.close()
        if self._append and _state(self._path) != self._before:
            self.discard()
            raise DataError(f"{self._path} was changed by another process meanwhile", hint="Run it again.")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._temporary.replace(self._path)
        self._file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._writer.close()
        self._temporary.unlink(missing_ok=True)
        self._file.close()


def _row_key(*parts: str) -> bytes:
    """What tells a row from others in 16 bytes, as all of a file's are held in memory."""
    return sha256(json.dumps(parts).encode()).digest()[:16]


def _remove_leftovers(path: Path) -> None:
    """Remove what runs left beside a file that were killed: nobody holds its lock any more."""
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _schema(stamp: Stamp) -> Any:
    import pyarrow as pa

    names = [(name, pa.string()) for name in ("id", "source", "text", "metadata")]
    vector = pa.list_(pa.float32(), stamp.dimensions)
    return pa.schema([*names, ("cut", pa.bool_()), ("vector", vector)], metadata=stamp.metadata())


def _state(path: Path) -> tuple[int, int, int] | None:
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} can't be read as Parquet: {first_line(error)}", hint="Make it with platen embed run."
        ) from None
