"""A WARC file, by warcio: one document for each page or text that a server answered with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import IO, Any

from platen.core.errors import first_line
from platen.data.document import Broken, Document, LeftOut, Record
from platen.data.readers.decoding import decode
from platen.data.readers.needs import needs
from platen.data.readers.parsed import read_page
from platen.data.sourcefile import SourceFile

_HTML = ("text/html", "application/xhtml+xml")


def read(file: SourceFile) -> Iterator[Record]:
    needs("warcio", "reading WARC")

    number = 0
    with file.open() as stream:  # unpacked here: warcio would not notice a cut
        try:
            for number, record in enumerate(_records(stream), start=1):
                found = list(_record(record, file, f"{file.name}:{number}"))
                if _cut_short(record):  # warcio itself takes the end of a file for the end of a record
                    raise EOFError("it breaks off in this record")
                yield from found
        except Exception as error:  # warcio lets zlib's, its own and ValueError through
            place = f"{file.name}, record {max(number, 1)}"
            said = first_line(error)
            yield Broken(
                place,
                "malformed",
                f"{place}: {said}; the file is not read from there on",
                "Get the file again; it may be cut short.",
            )
            return
    if number == 0:
        yield Broken(file.name, "empty", f"{file.name} has no record", "Get the file again.")


def _records(stream: IO[bytes]) -> Iterator[Any]:
    """warcio's records. Raises ValueError for what it would take for the older ARC format or only warn of."""
    from warcio.archiveiterator import ArchiveIterator

    archive = ArchiveIterator(stream)
    while True:
        with redirect_stderr(io.StringIO()):  # it prints what it warns of, binary as it is
            record = next(archive, None)
        if archive.err_count:
            raise ValueError("a record is not as long as it says")
        if record is None:
            return
        if record.format != "warc" or record.rec_type is None:
            raise ValueError("no WARC record")
        yield record


def _cut_short(record: Any) -> bool:
    """Read what is left of a record; whether it is less than the record's header says."""
    while record.raw_stream.read(2**16):
        pass
    return bool(getattr(record.raw_stream, "limit", 0))


def _record(record: Any, file: SourceFile, id: str) -> Iterator[Record]:
    if record.rec_type not in ("response", "resource", "conversion"):
        yield LeftOut(id, f"WARC {record.rec_type}")
        return
    headers = record.http_headers or record.rec_headers
    type, _, parameters = (headers.get_header("Content-Type") or "").lower().partition(";")
    status = record.http_headers.get_statuscode() if record.http_headers else "200"
    if status != "200":
        yield LeftOut(id, f"HTTP status {status}")
        return
    if type.strip() not in (*_HTML, "text/plain"):
        yield LeftOut(id, f"content type {type.strip()[:60] or 'unknown'}")
        return
    raw = record.content_stream().read(file.limits.document_bytes + 1)
    if len(raw) > file.limits.document_bytes:
        yield Broken(id, "too-large", f"{id} has more than {file.limits.document_bytes:,} bytes")
        return
    metadata = {
        "url": record.rec_headers.get_header("WARC-Target-URI"),
        "date": record.rec_headers.get_header("WARC-Date"),
    }
    charset = parameters.partition("charset=")[2].strip(" \"';") or None
    if type.strip() == "text/plain":
        text = decode(raw, file, place=id)
        yield text if isinstance(text, Broken) else Document(id, text, file.name, metadata)
        return
    for found in read_page(raw, file, id=id, charset=charset, metadata=metadata):
        no_text = isinstance(found, Broken) and found.reason == "no-text"
        yield LeftOut(id, "page without text") if no_text else found
