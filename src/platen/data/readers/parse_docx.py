"""The paragraphs and tables of a Word document in their order, by python-docx."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from platen.data.readers.archive import Archive
from platen.data.readers.config import ReadLimits
from platen.data.readers.parser import Parsed


def parse(raw: bytes, limits: ReadLimits) -> Parsed:
    import docx

    archive = Archive(io.BytesIO(raw), entry_bytes=limits.document_bytes, expansion=limits.expansion)
    archive.check(limits.expanded_bytes)
    document = docx.Document(io.BytesIO(raw))
    text = "\n\n".join(_blocks(document))
    title = document.core_properties.title
    return Parsed(text, {"title": title} if title else {})


def _blocks(document: Any) -> Iterator[str]:
    from docx.table import Table

    for block in document.iter_inner_content():
        if isinstance(block, Table):
            rows = (" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
            yield "\n".join(rows)
        elif block.text.strip():
            yield block.text.strip()
