"""A Parquet file: one document a row, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

from platen.core.errors import first_line
from platen.data.document import Broken, Record
from platen.data.readers.needs import needs
from platen.data.readers.records import document_of
from platen.data.sourcefile import SourceFile

_BATCH = 256


def read(file: SourceFile) -> Iterator[Record]:
    needs("pyarrow", "reading Parquet")
    import pyarrow
    from pyarrow import parquet

    number = 0
    with file.open_stored() as stream:
        try:
            table = parquet.ParquetFile(stream)
            for batch in table.iter_batches(batch_size=_BATCH, use_threads=False):
                for record in batch.to_pylist():
                    number += 1
                    yield document_of(record, file, f"{file.name}:{number}", f"{file.name}, row {number}")
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            place = f"{file.name}, row {number + 1}"
            yield Broken(
                place,
                "malformed",
                f"{place}: {first_line(error)}; the file is not read from there on",
                "Write the file again; it may be cut short.",
            )
            return
    if number == 0:
        yield file.empty()
