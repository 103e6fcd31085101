"""Bytes to text, strictly: whole files and lines, with the offset of the first byte that is no text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from platen.data.document import Broken
from platen.data.sourcefile import SourceFile

_CHUNK = 2**18


@dataclass(frozen=True)
class Line:
    """One line of a file, counted from 1; `at` is the offset of its first byte."""

    number: int
    at: int
    text: str


def decode(raw: bytes, file: SourceFile, at: int = 0, place: str | None = None) -> str | Broken:
    """The text of `raw`, which begins at byte `at` of the file."""
    place = place or file.name
    if not is_wide(file.encoding) and (zero := raw.find(b"\0")) >= 0:
        return Broken(
            place,
            "binary",
            f"{file.name} is binary: a zero byte at offset {at + zero}",
            "Leave the file out; if it is UTF-16, give encoding utf-16.",
        )
    try:
        return raw.decode(file.encoding)
    except UnicodeDecodeError as error:
        return Broken(
            place,
            "encoding",
            f"{file.name} is not {file.encoding}: byte 0x{raw[error.start]:02x} at offset {at + error.start} "
            f"({error.reason})",
            "Give the source its true encoding (for example cp1252), or repair the file.",
        )


def is_wide(encoding: str) -> bool:
    """Whether a line feed is several bytes in this encoding."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def lines(file: SourceFile) -> Iterator[Line | Broken]:
    """Each line with its line feed. A line beyond `line_bytes` is broken; what follows it is read."""
    number = 0
    with file.open() as stream:
        # Files of some file systems have no readline of bounded length.
        reader = io.BufferedReader(cast(io.RawIOBase, stream))
        if is_wide(file.encoding):
            raw_lines, form = _wide_lines(reader, file)
        else:
            raw_lines, form = _lines(reader, file.limits.line_bytes), file.encoding
        for number, (at, raw) in enumerate(raw_lines, start=1):
            place = f"{file.name}, line {number} (byte {at})"
            if len(raw) > file.limits.line_bytes:
                yield Broken(
                    place,
                    "line-too-long",
                    f"{place}: longer than {file.limits.line_bytes:,} bytes",
                    "Raise data.limits.line_bytes in a project file if it is one record.",
                )
                continue
            text = _decode_wide(raw, form, file, at, place) if form != file.encoding else None
            text = decode(raw, file, at, place) if text is None else text
            yield text if isinstance(text, Broken) else Line(number, at, text)
    if number == 0:
        yield file.empty()


def _decode_wide(raw: bytes, form: str, file: SourceFile, at: int, place: str) -> str | Broken:
    try:
        return raw.decode(form)
    except UnicodeDecodeError as error:
        return Broken(
            place,
            "encoding",
            f"{file.name} is not {file.encoding}: offset {at + error.start} ({error.reason})",
            "Give the source its true encoding, or repair the file.",
        )


def _lines(stream: io.BufferedReader[Any], limit: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their offset; of one that is too long only the beginning, one byte over the limit."""
    at = 0
    while raw := stream.readline(limit + 1):
        yield at, raw
        at += len(raw)
        while len(raw) > limit and not raw.endswith(b"\n"):
            raw = stream.readline(limit + 1)
            at += len(raw)
            if not raw:
                return


def _wide_lines(stream: io.BufferedReader[Any], file: SourceFile) -> tuple[Iterator[tuple[int, bytes]], str]:
    """Like `_lines` where a line feed is two or four bytes, and the encoding with its byte order."""
    name = codecs.lookup(file.encoding).name
    width = 2 if "16" in name else 4
    order, begin = name[-2:], 0
    if order not in ("le", "be"):
        mark = stream.peek(width)[:width]
        bom_be = codecs.BOM_UTF16_BE if width == 2 else codecs.BOM_UTF32_BE
        bom_le = codecs.BOM_UTF16_LE if width == 2 else codecs.BOM_UTF32_LE
        order = "be" if mark == bom_be else "le"
        begin = width if mark in (bom_be, bom_le) else 0
        stream.read(begin)
    form = f"utf-{8 * width}-{order}"
    feed = "\n".encode(form)

    def cut() -> Iterator[tuple[int, bytes]]:
        at, held, too_long = begin, b"", False
        while True:
            part = stream.read(_CHUNK)
            held += part
            start = 0
            while (end := _aligned(held, feed, start)) >= 0:
                if not too_long:
                    yield at, held[start : end + width]
                too_long = False
                at += end + width - start
                start = end + width
            held = held[start:]
            if len(held) > file.limits.line_bytes:
                if not too_long:
                    yield at, held[: file.limits.line_bytes + 1]
                too_long = True
                keep = len(held) % width
                at += len(held) - keep
                held = held[len(held) - keep :]
            if not part:
                if held and not too_long:
                    yield at, held
                return

    return cut(), form


def _aligned(held: bytes, feed: bytes, start: int) -> int:
    """Where the next line feed begins, at a multiple of its width."""
    end = held.find(feed, start)
    while end >= 0 and (end - start) % len(feed):
        end = held.find(feed, end + 1)
    return end
