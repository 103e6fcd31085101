"""The text layer of a PDF, page after page, by pypdf. A faulty page is a problem, the others are read."""

from __future__ import annotations

import io
import logging

from platen.data.readers.config import ReadLimits
from platen.data.readers.parser import Parsed, Problem

_TAIL = 2048  # bytes at the end that must hold the end-of-file mark


def parse(raw: bytes, limits: ReadLimits) -> Parsed:
    from pypdf import PdfReader

    if b"%PDF-" not in raw[:1024]:
        return Parsed(problems=(Problem("malformed", "it does not begin as a PDF"),))
    if b"%%EOF" not in raw[-_TAIL:]:
        return Parsed(problems=(Problem("truncated", "its end is missing"),))
    reader = PdfReader(io.BytesIO(raw))
    if reader.is_encrypted and not reader.decrypt(""):
        return Parsed(problems=(Problem("encrypted", "it has a password"),))
    pages, problems = [], []
    with _Damage() as damage:
        for number, page in enumerate(reader.pages, start=1):
            try:
                pages.append(page.extract_text().strip())
            except (MemoryError, RecursionError):
                raise
            except Exception as error:  # pypdf lets through whatever its parts raise
                damage.said.append(str(error) or type(error).__name__)
            problems += [Problem("malformed", said, f"page {number}") for said in damage.take()]
    if not pages and not problems:
        problems.append(Problem("malformed", "it has no pages"))
    text = "\n\n".join(page for page in pages if page)
    return Parsed(text, {"pages": len(reader.pages)} | _title(reader), tuple(problems))


def _title(reader: object) -> dict[str, str]:
    try:
        title = reader.metadata.title  # type: ignore[attr-defined]
    except Exception:  # a document may be fine though what it says of itself is not
        return {}
    return {"title": title} if isinstance(title, str) and title.strip() else {}


class _Damage(logging.Handler):
    """Hears when pypdf repairs a damaged stream, of which it then gives only a part."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def take(self) -> list[str]:
        """At most one of what was said since, so that a page is one problem."""
        first, self.said = self.said[:1], []
        return first

    def __enter__(self) -> _Damage:
        logging.getLogger("pypdf.filters").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("pypdf.filters").removeHandler(self)
