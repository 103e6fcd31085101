"""JSON lines: one document a line, its text under the source's key."""

from __future__ import annotations

from collections.abc import Iterator

from platen.data.document import Broken, Record
from platen.data.readers.decoding import lines
from platen.data.readers.records import document_of, parse_json
from platen.data.sourcefile import SourceFile


def read(file: SourceFile) -> Iterator[Record]:
    for line in lines(file):
        if isinstance(line, Broken):
            yield line
            continue
        text = line.text.removeprefix("\ufeff")  # a byte order mark
        if not text.strip():
            continue
        place = f"{file.name}, line {line.number} (byte {line.at})"
        try:
            record = parse_json(text)
        except ValueError as error:
            yield Broken(place, "not-json", f"{place}: not JSON: {error}", "Write one JSON object a line.")
            continue
        yield document_of(record, file, f"{file.name}:{line.number}", place)
