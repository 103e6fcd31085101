"""Files of a known size and checksum from any fsspec file system into a local folder.

They come in parallel pieces. A piece that is written is noted beside its file, so whatever ends a download,
the next one goes on from there; a file counts only once its checksum has been seen to be right.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from platen.core.errors import ArtifactError
from platen.core.phases import Phase, no_phase

PIECE_BYTES = 8 * 2**20
CONNECTIONS = 8
_TRIES = 4
_SPARE_BYTES = 64 * 2**20
"""Of the disk, left free beside what is downloaded."""

Report = Callable[[int, int], None]
"""Told how many bytes are there, of how many."""


def no_report(done: int, total: int) -> None:
    """For callers who don't ask how far a download is."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to have: `path` below the folder, `size` in bytes, `sha256` None where unknown."""

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Remote:
    """A folder on an fsspec file system; `shown` is its address as messages may have it."""

    fs: Any
    root: str
    shown: str

    def at(self, path: str) -> str:
        return str(PurePosixPath(self.root, path)) if "://" not in self.root else f"{self.root}/{path}"


def fetch(
    remote: Remote,
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    digest: Callable[[Path], str],
    report: Report = no_report,
    phase: Phase = no_phase,
) -> None:
    """Make `folder` hold `files`, each as its checksum says; only what is missing or wrong is downloaded.

    `digest` gives a local file's SHA-256. One process at a time may work on a folder. Raises ArtifactError:
    not there, damaged at its source, no room, no connection. What has come by then stays for the next call.
    """
    for file in files:
        _check_path(file.path, remote)
    with phase("verify"):
        wanted = _wrong(files, folder, digest)
    for last in (False, True):
        if not wanted:
            return
        with phase("download"):
            _Download(remote, wanted, folder, report).run()
        with phase("verify"):
            wanted = _wrong(wanted, folder, digest)
        if wanted and last:
            raise ArtifactError(
                f"{wanted[0].path} in {remote.shown} does not match its checksum",
                hint="It is damaged where it is kept: put it there again.",
            )


def _wrong(files: Iterable[RemoteFile], folder: Path, digest: Callable[[Path], str]) -> list[RemoteFile]:
    """Those that are not there; those with other bytes than they should have are removed."""
    found = []
    for file in files:
        local = folder / file.path
        if local.is_file():
            if local.stat().st_size == file.size and file.sha256 in (None, digest(local)):
                continue
            local.unlink()
        found.append(file)
    return found


def _check_path(path: str, remote: Remote) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ArtifactError(f"{remote.shown} names a file outside of it: {path!r}", hint="Don't use it.")


class _Download:
    """One pass over the files that are wanted."""

    def __init__(self, remote: Remote, files: Sequence[RemoteFile], folder: Path, report: Report) -> None:
        self._remote, self._report = remote, report
        self._parts = [_Part(file, folder) for file in files]
        self._total = sum(file.size for file in files)
        self._done = sum(part.bytes_there for part in self._parts)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._folder = folder

    def run(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._check_room()
        self._report(self._done, self._total)
        try:
            for part in self._parts:
                part.open()
            # A file's first piece comes alone: it tells whether the server gives pieces at all.
            self._together([(part, part.missing[0]) for part in self._parts if part.missing])
            self._together([(part, index) for part in self._parts for index in list(part.missing)])
            for part in self._parts:
                part.finish()
        except OSError as error:
            raise self._explained(error) from None
        finally:
            for part in self._parts:
                part.close()

    def _together(self, pieces: Sequence[tuple[_Part, int]]) -> None:
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="platen-download") as pool:
            try:
                for _ in pool.map(lambda piece: self._piece(*piece), pieces):
                    pass
            except BaseException:
                self._stop.set()  # or leaving the pool would wait for all that is still to come
                raise

    def _piece(self, part: _Part, index: int) -> None:
        """Fetch and write one piece, trying again when the connection fails."""
        for attempt in range(_TRIES):
            if self._stop.is_set():
                return
            start, stop = part.span(index)
            try:
                data = self._remote.fs.cat_file(self._remote.at(part.file.path), start=start, end=stop)
                break
            except (FileNotFoundError, PermissionError):
                raise
            except Exception as error:
                if attempt == _TRIES - 1:
                    # Its own text may hold a signed address.
                    raise OSError(errno.ECONNABORTED, type(error).__name__) from None
                self._stop.wait(0.2 * 2**attempt)
        # From a server that answers with the whole whatever piece it is asked for, all pieces at once.
        whole = len(data) == part.file.size
        for i in list(part.missing) if whole else [index]:
            part.write(i, data[slice(*part.span(i))] if whole else data)
            with self._lock:
                part.missing.remove(i)
                self._done += len(range(*part.span(i)))
                self._report(self._done, self._total)

    def _check_room(self) -> None:
        needed, free = self._total - self._done, shutil.disk_usage(self._folder).free
        if needed + _SPARE_BYTES > free:
            raise self._full(f"{needed:,} bytes are to come, {free:,} are free")

    def _explained(self, error: OSError) -> ArtifactError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._full("it filled up during the download; what came is kept")
        if isinstance(error, FileNotFoundError):
            return ArtifactError(
                f"{self._remote.shown} lacks a file that it should have", hint="Put it there again."
            )
        return ArtifactError(
            f"{self._remote.shown} can't be downloaded: {error.strerror or type(error).__name__}",
            hint="Try again: what has come is kept, and the download goes on from there.",
        )

    def _full(self, why: str) -> ArtifactError:
        return ArtifactError(
            f"the disk of {self._folder} is too full for {self._remote.shown}: {why}",
            hint="Free space there, or set PLATEN_CACHE to a folder on a larger disk.",
        )


class _Part:
    """A file on its way: its bytes under `NAME.part`, and in `NAME.part.done` a 1 for each piece written."""

    def __init__(self, file: RemoteFile, folder: Path) -> None:
        self.file = file
        self._target = folder / file.path
        self._path = self._target.with_name(self._target.name + ".part")
        self._notes_path = self._path.with_name(self._path.name + ".done")
        count = -(-file.size // PIECE_BYTES)
        there = self._path.is_file() and self._notes_path.is_file()
        notes = self._notes_path.read_bytes() if there else b""
        self._fresh = len(notes) != count or not there
        self.missing = [i for i in range(count) if self._fresh or notes[i] != 1]
        self._count = count
        self._data = self._notes = -1

    @property
    def bytes_there(self) -> int:
        return self.file.size - sum(stop - start for start, stop in map(self.span, self.missing))

    def span(self, index: int) -> tuple[int, int]:
        return index * PIECE_BYTES, min((index + 1) * PIECE_BYTES, self.file.size)

    def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._fresh:
            self._path.write_bytes(b"")
            self._notes_path.write_bytes(bytes(self._count))
        self._data = os.open(self._path, os.O_WRONLY)
        self._notes = os.open(self._notes_path, os.O_WRONLY)

    def write(self, index: int, data: bytes) -> None:
        start, stop = self.span(index)
        if len(data) != stop - start:
            raise OSError(errno.EPROTO, f"{self.file.path} has another size than it should have")
        view = memoryview(data)
        while view:
            written = os.pwrite(self._data, view, start)
            view, start = view[written:], start + written
        os.pwrite(self._notes, b"\1", index)

    def finish(self) -> None:
        """All pieces are there: the file gets its name."""
        self._path.replace(self._target)
        self._notes_path.unlink()

    def close(self) -> None:
        for descriptor in (self._data, self._notes):
            if descriptor >= 0:
                os.close(descriptor)
