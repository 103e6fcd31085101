"""HTML, PDF, DOCX and EPUB: a whole file is parsed in another process and gives one document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from platen.data.document import Broken, Document, Record
from platen.data.readers.charset import page_encoding
from platen.data.readers.decoding import decode
from platen.data.readers.needs import needs
from platen.data.readers.parser import Parsed, parser
from platen.data.sourcefile import SourceFile

_LIBRARY = {"html": "trafilatura", "pdf": "pypdf", "docx": "docx", "epub": "lxml"}


def read(file: SourceFile, kind: str) -> Iterator[Record]:
    raw = file.read()
    if isinstance(raw, Broken):
        yield raw
    elif kind == "html":
        yield from read_page(raw, file, id=file.name)
    else:
        yield from _records(parse(kind, raw, file), file, file.name, {})


def read_page(
    raw: bytes,
    file: SourceFile,
    *,
    id: str,
    charset: str | None = None,
    metadata: dict[str, object] | None = None,
) -> Iterator[Record]:
    """The main text of an HTML page in `file`; `charset` is what its HTTP header said."""
    encoding = page_encoding(raw, header=charset, otherwise=file.encoding)
    stated = replace(file, name=id, source=file.source.model_copy(update={"encoding": encoding}))
    text = decode(raw, stated)
    if isinstance(text, Broken):
        yield text
        return
    yield from _records(parse("html", text.encode(), file), file, id, metadata or {})


def parse(kind: str, raw: bytes, file: SourceFile) -> Parsed:
    """What the parsing process makes of it. Raises MissingExtraError."""
    needs(_LIBRARY[kind], f"reading {kind.upper()}")
    return parser(file.limits).parse(kind, raw)


def _records(parsed: Parsed, file: SourceFile, id: str, metadata: dict[str, object]) -> Iterator[Record]:
    for problem in parsed.problems:
        place = f"{id}, {problem.where}" if problem.where else id
        yield Broken(place, problem.reason, f"{place}: {problem.detail}", _hint(problem.reason))
    if parsed.text.strip():
        yield Document(id, parsed.text, file.name, metadata | dict(parsed.metadata))
    elif not parsed.problems:
        yield Broken(id, "no-text", f"{id} has no text", "A scan needs character recognition first.")


def _hint(reason: str) -> str:
    return {
        "encrypted": "Remove its password.",
        "time": "Raise data.limits.parse_seconds in a project file if it is worth it.",
        "memory": "Raise data.limits.parse_memory_bytes in a project file if it is worth it.",
        "expansion": "A bomb? If not, raise data.limits.expansion or expanded_bytes in a project file.",
    }.get(reason, "Get the file again, or leave it out.")
