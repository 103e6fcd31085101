"""A text or Markdown file: one document."""

from __future__ import annotations

from collections.abc import Iterator

from platen.data.document import Broken, Document, Record
from platen.data.readers.decoding import decode
from platen.data.sourcefile import SourceFile


def read(file: SourceFile) -> Iterator[Record]:
    raw = file.read()
    text = decode(raw, file) if isinstance(raw, bytes) else raw
    yield text if isinstance(text, Broken) else Document(file.name, text, file.name)
