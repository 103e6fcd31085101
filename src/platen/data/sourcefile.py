"""A file to read: opened wherever it lies, unpacked by its suffix, never more than the limits allow."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from platen.core.errors import DataError
from platen.data.document import Broken
from platen.data.readers.config import ReadLimits, Source

COMPRESSED = (".gz", ".bz2", ".xz")
_ALWAYS_ALLOWED = 2**20  # bytes: so little harms nobody, however small it was packed


class TooMuch(Exception):
    """More bytes than the limits allow; the message says which limit."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read: a local path, or a URL as text. `name` is how documents and errors call it.

    Its source says how to read it; a database, a repository or a data set is one such "file".
    """

    location: Path | str
    name: str
    source: Source
    limits: ReadLimits = field(default_factory=ReadLimits)

    @property
    def encoding(self) -> str:
        return self.source.encoding

    def open(self) -> IO[bytes]:
        """Open for reading, unpacked if its name ends in .gz, .bz2 or .xz. Raises DataError."""
        raw = self.open_stored()
        unpack = _unpacker(self.name)
        if unpack is None:
            return raw
        return io.BufferedReader(_Unpacked(raw, unpack(raw), self.limits.expansion), 2**18)

    def open_stored(self) -> IO[bytes]:
        """Open for reading as it is stored. Raises DataError."""
        try:
            if isinstance(self.location, Path):
                if not self.location.is_file():  # a pipe would wait for ever
                    raise OSError("no regular file")
                return self.location.open("rb")
            import fsspec

            opened: IO[bytes] = fsspec.open(self.location, "rb").open()
            return opened
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"{self.name} can't be read: {error}", hint="Check that it exists and is yours to read."
            ) from None

    def read(self) -> bytes | Broken:
        """The whole content, if it is within `document_bytes` and not empty."""
        limit = self.limits.document_bytes
        with self.open() as stream:
            raw = stream.read(limit + 1)
        if not raw:
            return self.empty()
        if len(raw) > limit:
            return Broken(
                self.name,
                "too-large",
                f"{self.name} has more than {limit:,} bytes",
                "Cut it at its natural boundaries, or raise data.limits.document_bytes in a project file.",
            )
        return raw

    def empty(self) -> Broken:
        return Broken(self.name, "empty", f"{self.name} is empty", "Fill the file or leave it out.")

    def size(self) -> int:
        """Bytes as stored, for progress; 0 where nobody knows."""
        if isinstance(self.location, Path):
            return self.location.stat().st_size if self.location.is_file() else 0
        if self.source.format in ("git", "huggingface", "sql", "slack-api"):
            return 0
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(self.location)
        return int(filesystem.size(path) or 0)


def check_expansion(stored: int, expanded: int, limit: int) -> None:
    """Raise TooMuch if `expanded` bytes out of `stored` ones are what only a bomb has."""
    if expanded > _ALWAYS_ALLOWED and expanded > limit * max(stored, 1):
        raise TooMuch(f"unpacks to more than {limit} times its size (data.limits.expansion)")


def _unpacker(name: str) -> Callable[[IO[bytes]], Any] | None:
    if name.endswith(".gz"):
        return lambda raw: gzip.GzipFile(fileobj=raw)
    if name.endswith(".bz2"):
        return bz2.BZ2File
    return lzma.LZMAFile if name.endswith(".xz") else None


class Watched(io.RawIOBase):
    """The bytes of `unpacked`; `check` is called with how many there were so far, and may raise TooMuch."""

    def __init__(self, unpacked: IO[bytes], check: Callable[[int], None]) -> None:
        self._unpacked, self._check = unpacked, check
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._unpacked.read(len(buffer))
        self._count += len(part)
        self._check(self._count)
        buffer[: len(part)] = part
        return len(part)


class _Unpacked(Watched):
    """The unpacked bytes of a stream, watched for what only a bomb expands to; closing closes both."""

    def __init__(self, stored: IO[bytes], unpacked: IO[bytes], expansion: int) -> None:
        super().__init__(unpacked, lambda count: check_expansion(stored.tell(), count, expansion))
        self._stored = stored

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._stored.close()
        super().close()
