"""ZIP archives read without trust: each entry streamed and counted, never unpacked to a disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from platen.data.sourcefile import TooMuch, Watched, check_expansion

_MOST_ENTRIES = 1_000_000


class Archive:
    """A ZIP; its entries can be opened one by one within the limits."""

    def __init__(self, stream: IO[bytes], *, entry_bytes: int, expansion: int) -> None:
        """Raises zipfile.BadZipFile, and TooMuch for more entries than anyone has."""
        self._zip = zipfile.ZipFile(stream)
        self._entry_bytes, self._expansion = entry_bytes, expansion
        if len(self._zip.filelist) > _MOST_ENTRIES:
            raise TooMuch(f"more than {_MOST_ENTRIES:,} entries")

    def names(self) -> list[str]:
        return [info.filename for info in self._zip.filelist if not info.is_dir()]

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """An entry's bytes; reading raises TooMuch beyond the limits, BadZipFile for a wrong checksum.

        Raises KeyError when there is no such entry.
        """
        info = self._zip.getinfo(name)
        if info.flag_bits & 1:
            raise zipfile.BadZipFile(f"{name} is encrypted")

        def check(count: int) -> None:
            if count > self._entry_bytes:
                raise TooMuch(f"{name} unpacks to more than {self._entry_bytes:,} bytes")
            check_expansion(info.compress_size, count, self._expansion)

        with self._zip.open(info) as stream:
            yield io.BufferedReader(Watched(stream, check))

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read()

    def check(self, total: int) -> None:
        """Read every entry once. Raises TooMuch when all together are more than `total` bytes."""
        read = 0
        for name in self.names():
            with self.open(name) as stream:
                while part := stream.read(2**16):
                    read += len(part)
                    if read > total:
                        raise TooMuch(f"unpacks to more than {total:,} bytes")
