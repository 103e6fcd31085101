"""Malformed files: whatever is thrown at the readers ends in quarantine, quickly and in little memory.

    python benchmarks/malformed.py [--files 10000] [--quick] [--seed 0] [--json FILE]

Files of some thirty kinds are made from a seed: truncated and corrupted PDFs, DOCX, EPUB, Parquet, WARC and
packed files; bombs in ZIP, gzip and PDF streams; mixed encodings; huge lines; deep nesting; links in circles,
pipes; a PDF that takes minutes to lay out. They are read as a folder with `on_error: quarantine`, among good
ones. It fails if one is missing in quarantine.jsonl, a good one is not read, this process or the parsing one
grows beyond its bound, or a file takes longer than a minute.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import random
import resource
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from _harness import options, peak_memory

from platen.core.kinds.data_splits import DataSplits
from platen.data.config import DataConfig
from platen.data.intake import Intake
from platen.data.readers.config import ReadLimits, Source
from platen.data.sources import find_files

MB = 2**20
LIMITS = ReadLimits(line_bytes=MB // 4, document_bytes=16 * MB, parse_seconds=2, parse_memory_bytes=512 * MB)
MOST_MEMORY, LONGEST_SECONDS = 512 * MB, 60
GOOD = 20
Maker = Callable[[random.Random], bytes]


def pdf(content: bytes, *, kids: bytes = b"3 0 R", packed: bool = True) -> bytes:
    """A PDF of one page that draws `content`."""
    stream = zlib.compress(content, 9) if packed else content
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [" + kids + b"] >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F 5 0 R >> >> >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    tail = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table + tail


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return out.getvalue()


@cache
def _docx() -> bytes:
    import docx

    document, out = docx.Document(), io.BytesIO()
    for number in range(40):
        document.add_paragraph(f"Paragraph {number} of a document that is quite all right.")
    document.save(out)
    return out.getvalue()


@cache
def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": [f"Row {number}" for number in range(500)]}), out)
    return out.getvalue()


@cache
def _warc() -> bytes:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    out = io.BytesIO()
    headers = StatusAndHeaders("200 OK", [("Content-Type", "text/plain")], protocol="HTTP/1.1")
    for number in range(3):
        body = io.BytesIO(random.Random(number).randbytes(3000).hex().encode())
        writer = WARCWriter(out, gzip=True)
        writer.write_record(
            writer.create_warc_record("https://x.org/", "response", payload=body, http_headers=headers)
        )
    return out.getvalue()


@cache
def _zip_bomb(inner: str) -> bytes:
    others = {"users.json": b"[]", "channels.json": b"[]"} if inner == "users.json" else {}
    return zipped(others | {inner: b"[" + b" " * (40 * MB)})


@cache
def _pdf_bomb() -> bytes:
    return pdf(b" " * (90 * MB))


@cache
def _slow_pdf() -> bytes:
    return pdf(b"BT /F 12 Tf 72 720 Td (slow) Tj ET\n" * 400_000)


def cut(whole: Callable[[], bytes], least: float = 0.2, most: float = 0.95) -> Maker:
    def make(chance: random.Random) -> bytes:
        content = whole()
        return content[: int(len(content) * chance.uniform(least, most))]

    return make


def flipped(whole: Callable[[], bytes]) -> Maker:
    """One byte wrong in the packed data of the ZIP's largest entry, which its checksum tells."""

    def make(chance: random.Random) -> bytes:
        content = bytearray(whole())
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            largest = max(packed.filelist, key=lambda info: info.compress_size)
        begin = largest.header_offset + 30 + len(largest.filename) + 20
        content[begin + chance.randrange(largest.compress_size - 40)] ^= 0xFF
        return bytes(content)

    return make


def _words(chance: random.Random) -> bytes:
    return " ".join(chance.choices(["net", "füße", "日本", "ticket", "answer"], k=50)).encode()


KINDS: dict[str, Maker] = {
    "cut.pdf": cut(lambda: pdf(b"BT /F 12 Tf 72 720 Td (Hello) Tj ET " * 50)),
    "noise.pdf": lambda chance: b"%PDF-1.7\n" + chance.randbytes(3000) + b"\n%%EOF\n",
    "circle.pdf": lambda chance: pdf(b"BT (x) Tj ET", kids=b"2 0 R"),
    "bomb.pdf": lambda chance: _pdf_bomb(),
    "stream.pdf": lambda chance: pdf(b"BT (x) Tj ET").replace(b"stream\nx", b"stream\ny"),
    "slow.pdf": lambda chance: _slow_pdf(),
    "cut.docx": cut(_docx),
    "flip.docx": flipped(_docx),
    "bomb.docx": lambda chance: _zip_bomb("word/document.xml"),
    "other.docx": lambda chance: zipped({"readme": _words(chance)}),
    "bomb.epub": lambda chance: _zip_bomb("META-INF/container.xml"),
    "noise.epub": lambda chance: b"PK\x03\x04" + chance.randbytes(2000),
    "empty.epub": lambda chance: zipped({"mimetype": b"application/epub+zip"}),
    "bomb.zip": lambda chance: _zip_bomb("users.json"),
    "mixed.txt": lambda chance: (
        _words(chance) + _words(chance).decode().encode("latin-1", "replace") + b"\xfc\xff"
    ),
    "zero.txt": lambda chance: _words(chance) + b"\0" + _words(chance),
    "half.md": lambda chance: "日本".encode()[:-1],
    "empty.txt": lambda chance: b"",
    "bomb.txt.gz": lambda chance: gzip.compress(b"a" * (40 * MB), 6),
    "cut.jsonl.gz": cut(
        lambda: gzip.compress(b'{"text": "fine"}\n' + random.Random(0).randbytes(9000).hex().encode())
    ),
    "noise.jsonl.xz": lambda chance: lzma.compress(b"x" * 999)[:20] + chance.randbytes(300),
    "huge.jsonl": lambda chance: b'{"text": "' + b"x" * (MB // 3) + b'"}\n',
    "bad.jsonl": lambda chance: b'{"text": \n' + _words(chance) + b"\n",
    "deep.json": lambda chance: b"[" * chance.randrange(20_000, 200_000),
    "cut.json": cut(lambda: json.dumps([{"text": f"Record {n}"} for n in range(50)]).encode()),
    "quote.csv": lambda chance: b'text,n\n"never closed,1\n' + _words(chance),
    "columns.csv": lambda chance: b"text,n\n" + _words(chance) + b",1,2\n",
    "cut.parquet": cut(_parquet),
    "noise.parquet": lambda chance: b"PAR1" + chance.randbytes(900) + b"\xff\xff\xff\x7fPAR1",
    "cut.warc.gz": cut(_warc),
    "noise.warc": lambda chance: chance.randbytes(2000),
    "charset.html": lambda chance: b'<meta charset="utf-8"><p>' + b"caf\xe9 " * 50,
    "bare.html": lambda chance: b"<html><body>" + b"<div>" * 50_000,
}
LINKS = ("circle.txt", "self.json", "nowhere.pdf", "pipe.txt")
RARE = {"slow.pdf": 500, "bomb.pdf": 20, "bomb.txt.gz": 20}
"""Kinds that cost seconds or many bytes: one in so many rounds."""


def make(folder: Path, count: int, seed: int) -> list[str]:
    """Make `count` malformed files; their names."""
    chance, names, turn = random.Random(seed), [], 0
    while len(names) < count:
        for kind in (*KINDS, *LINKS):
            if turn % RARE.get(kind, 1) or len(names) == count:
                continue
            stem, _, suffix = kind.partition(".")
            path = folder / f"{stem}-{turn}.{suffix}"
            names.append(path.name)
            if kind in LINKS:
                _link(path, stem)
            else:
                path.write_bytes(KINDS[kind](chance))
        turn += 1
    return names


def _link(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path.name + ".back.log")
        (path.parent / (path.name + ".back.log")).symlink_to(path.name)
    else:
        path.symlink_to(path.name if kind == "self" else "/nowhere")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--files", type=int, help="default: 10000, or 300 with --quick")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count = arguments.files or (300 if arguments.quick else 10_000)
    with tempfile.TemporaryDirectory(prefix="malformed-") as name:
        found = run(Path(name), count, arguments.seed)
    print("malformed", " ".join(f"{key}={value}" for key, value in found.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if found["verdict"] == "pass" else 1)


def run(folder: Path, count: int, seed: int) -> dict[str, object]:
    corpus = folder / "corpus"
    (corpus / "loop").mkdir(parents=True)
    (corpus / "loop" / "again").symlink_to(corpus)
    names = make(corpus, count, seed)
    for number in range(GOOD):
        (corpus / f"good-{number}.txt").write_text(f"Good text number {number}")
    sources = (Source(path="corpus"), Source(path="corpus/*.zip", format="slack"))
    config = DataConfig(sources=sources, on_error="quarantine", limits=LIMITS)
    longest, read, began = (0.0, ""), set(), time.monotonic()
    with Intake("quarantine", DataSplits(folder).quarantine) as intake:
        for file in find_files(folder, config):
            started = time.monotonic()
            read |= {document.id for document in intake.documents(file)}
            longest = max(longest, (time.monotonic() - started, file.name))
    seconds = time.monotonic() - began
    places = [json.loads(line)["place"] for line in (DataSplits(folder).quarantine).open(encoding="utf-8")]
    quarantined = Counter(
        place.removeprefix("corpus/").partition(",")[0].partition(":")[0] for place in places
    )
    missing = [name for name in names if name not in quarantined]
    unread = [n for n in range(GOOD) if f"corpus/good-{n}.txt" not in read]
    own = peak_memory()
    parsing = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    well = not missing and not unread and max(own, parsing) < MOST_MEMORY and longest[0] < LONGEST_SECONDS
    return {
        "files": count,
        "quarantined": count - len(missing),
        "good_read": GOOD - len(unread),
        "seconds": round(seconds, 1),
        "longest_s": round(longest[0], 1),
        "longest_file": longest[1],
        "memory_mb": own // MB,
        "parser_memory_mb": parsing // MB,
        "reasons": dict(intake.quarantined.most_common()),
        "missing": missing[:20],
        "verdict": "pass" if well else "fail",
    }


if __name__ == "__main__":
    main()
