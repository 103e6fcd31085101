"""Small files of each format, written by hand or by the format's own library."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from platen.data.document import Broken, Document, LeftOut
from platen.data.readers.choose import read_records
from platen.data.readers.config import ReadLimits, Source
from platen.data.sourcefile import SourceFile


def records(
    path: Path, *, limits: ReadLimits = ReadLimits(), **source: object
) -> tuple[list[Document], list[Broken], list[LeftOut]]:
    """What a file gives, by kind of record."""
    settings = Source.model_validate({"path": str(path), **source})
    found = list(read_records(SourceFile(path, path.name, settings, limits)))
    return (
        [record for record in found if isinstance(record, Document)],
        [record for record in found if isinstance(record, Broken)],
        [record for record in found if isinstance(record, LeftOut)],
    )


def pdf(pages: Sequence[str], *, compress: bool = True, title: str = "") -> bytes:
    """A PDF 1.4 with one line of text a page, after the specification's own smallest example."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (5 + 2 * number) for number in range(len(pages)))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Title (%s) >>" % title.encode("latin-1"),
    ]
    for number, page in enumerate(pages):
        drawn = b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % page.encode("latin-1")
        packed = zlib.compress(drawn) if compress else drawn
        kind = b"/Filter /FlateDecode " if compress else b""
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (6 + 2 * number),
            b"<< %s/Length %d >>\nstream\n%s\nendstream" % (kind, len(packed), packed),
        ]
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    tail = b"trailer << /Size %d /Root 1 0 R /Info 4 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        len(out),
    )
    return out + head + table + tail


def docx(paragraphs: Sequence[str], table: Sequence[Sequence[str]] = ()) -> bytes:
    """A Word document with paragraphs and then a table."""
    import docx as library

    document = library.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    if table:
        made = document.add_table(rows=len(table), cols=len(table[0]))
        for row, values in zip(made.rows, table, strict=True):
            for cell, value in zip(row.cells, values, strict=True):
                cell.text = value
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def epub(chapters: Sequence[str], title: str = "A Book") -> bytes:
    """An EPUB 3 whose spine has the chapters, XHTML bodies, in order; its files lie in another order."""
    items = "".join(f'<item id="c{n}" href="text/c{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>{title}</dc:title></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    for number, body in reversed(list(enumerate(chapters))):
        files[f"OEBPS/text/c{number}.xhtml"] = (
            '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml">'
            f"<head><title>no text</title></head><body>{body}</body></html>"
        )
    return archive(files | {"OEBPS/book.opf": package})


def archive(files: dict[str, str | bytes]) -> bytes:
    """A ZIP, packed as well as it goes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return out.getvalue()
