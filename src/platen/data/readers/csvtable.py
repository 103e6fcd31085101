"""A CSV or TSV file with a header: one document a row, its text in the source's column."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from platen.data.document import Broken, Record
from platen.data.readers.decoding import lines
from platen.data.readers.records import document_of
from platen.data.sourcefile import SourceFile

_DELIMITERS = ",\t;|"


def read(file: SourceFile) -> Iterator[Record]:
    feed = _Feed(file)
    header_line = next(feed, None)
    yield from feed.take_broken()
    if header_line is None:
        return
    header_text = header_line.removeprefix("\ufeff")
    delimiter = max(_DELIMITERS, key=header_text.count)  # the first of equals
    header = next(csv.reader([header_text], delimiter=delimiter), [])
    if file.source.text not in header:
        yield Broken(
            file.name,
            "no-text",
            f"{file.name} has no column {file.source.text!r}; there are {', '.join(header[:8])}",
            "Give the source the column with the text (text: …).",
        )
        return
    yield from _rows(file, feed, header, delimiter)


def _rows(file: SourceFile, feed: _Feed, header: list[str], delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(file.limits.line_bytes)  # of the process, not of one reader
    rows = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        first = feed.number + 1
        place = f"{file.name}, line {first}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Broken(place, "not-csv", f"{place}: {error}", "Repair the quotes of this row.")
            continue
        yield from feed.take_broken()
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            yield Broken(
                place,
                "not-csv",
                f"{place}: {len(row)} columns where the header has {len(header)}",
                "Quote values that hold the delimiter or a line feed.",
            )
            continue
        yield document_of(dict(zip(header, row, strict=True)), file, f"{file.name}:{first}", place)


class _Feed:
    """The lines of a file for `csv`; those that are broken are kept aside."""

    def __init__(self, file: SourceFile) -> None:
        self._lines = lines(file)
        self._broken: list[Broken] = []
        self.number = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            if isinstance(line, Broken):
                self._broken.append(line)
                self.number += 1
                continue
            self.number = line.number
            return line.text
        raise StopIteration

    def take_broken(self) -> list[Broken]:
        taken, self._broken = self._broken, []
        return taken
