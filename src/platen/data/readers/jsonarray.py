"""A JSON file: a record, or an array of records that is read one after another, never whole.

On the standard library's decoder, so that NaN and Infinity, which `json.dump` writes, are read as they are in
JSON lines. Streaming parsers such as ijson refuse them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from platen.data.document import Broken, Record
from platen.data.readers.records import document_of
from platen.data.sourcefile import SourceFile, TooMuch

_CHUNK = 2**16
_BLANKS = re.compile(r"[ \t\r\n]*")


def read(file: SourceFile) -> Iterator[Record]:
    with file.open() as stream:
        number = 0
        try:
            for number, value in enumerate(values(stream, file.encoding, file.limits.line_bytes), start=1):
                place = f"{file.name}, record {number}"
                yield document_of(value, file, f"{file.name}:{number}", place)
        except (ValueError, TooMuch) as error:
            yield _cut_short(file, number, error)
            return
    if number == 0:
        yield file.empty()


def _cut_short(file: SourceFile, number: int, error: Exception) -> Broken:
    place = f"{file.name}, record {number + 1}"
    reason = "encoding" if isinstance(error, UnicodeDecodeError) else "not-json"
    return Broken(
        place,
        "line-too-long" if isinstance(error, TooMuch) else reason,
        f"{place}: {error}; the file is not read from there on",
        "Repair the file; as JSON lines one bad record would not hide those after it.",
    )


def values(stream: IO[bytes], encoding: str, limit: int) -> Iterator[Any]:
    """The elements of the array in a stream, or the one value if it is no array.

    Raises ValueError where it is no JSON or no text, TooMuch for an element of more than `limit` characters.
    """
    text = _Window(stream, encoding, limit)
    if text.skip_blanks() != "[":
        if not text.ended:
            yield text.value()
            if not text.ended:
                raise ValueError("more than one JSON value; call the file .jsonl if it has one a line")
        return
    text.take("[")
    if text.skip_blanks() != "]":
        while True:
            yield text.value()
            if text.skip_blanks() != ",":
                break
            text.take(",")
    text.take("]")
    text.skip_blanks()
    if not text.ended:
        raise ValueError("something follows the array")


class _Window:
    """The part of a text that is looked at; more is decoded as needed."""

    def __init__(self, stream: IO[bytes], encoding: str, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._json = json.JSONDecoder(parse_constant=lambda _: None)
        self._held, self._at, self._all_read = "", 0, False
        self._more(_CHUNK)
        self._held = self._held.removeprefix("\ufeff")

    @property
    def ended(self) -> bool:
        return self.skip_blanks() == ""

    def skip_blanks(self) -> str:
        """The next character that is no blank; an empty text at the end."""
        while True:
            self._at = _BLANKS.match(self._held, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more(_CHUNK):
                return ""

    def take(self, character: str) -> None:
        if self.skip_blanks() != character:
            raise ValueError(f"{character} expected" + (", but the file ends" if self.ended else ""))
        self._at += 1

    def value(self) -> Any:
        """The next JSON value."""
        self.skip_blanks()
        size = _CHUNK
        while True:
            try:
                value, end = self._json.raw_decode(self._held, self._at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except ValueError:
                if len(self._held) - self._at > self._limit:
                    raise TooMuch(f"not one value within {self._limit:,} characters") from None
                if not self._more(size):
                    raise
                size *= 2  # so that a long value costs no more than twice its length
                continue
            if end == len(self._held) and self._more(size):
                continue  # a number may go on
            self._at = end
            return value

    def _more(self, size: int) -> bool:
        if self._all_read:
            return False
        raw = self._stream.read(size)
        self._all_read = not raw
        self._held = self._held[self._at :] + self._decoder.decode(raw, final=not raw)
        self._at = 0
        return bool(raw)
