"""The cache of models from elsewhere: copies on this machine, downloaded once, shared by all its processes.

It has a limit and gives up what was used longest ago, never what a process has open. Of a folder that says no
checksums, those of what first came are kept. A model that was here before starts also when its store is down.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from platen.core.artifacts import SourceIndex
from platen.core.download import Remote, RemoteFile, Report, fetch, no_report
from platen.core.errors import ArtifactError
from platen.core.files import write_atomic
from platen.core.phases import Phase, no_phase
from platen.models.remote import Listing, Unreachable, list_model, name_in, remote_folder

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 100 * 10**9
"""Bytes that cached models may take together."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")


def read_ahead(path: Path) -> None:
    """Read weights, a folder's or one file's, on a thread, so that they are in the page cache when mapped."""

    def read() -> None:
        buffer = bytearray(4 * 2**20)
        with suppress(OSError):  # whoever opens the model says what is wrong with it
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                if file.suffix in WEIGHT_SUFFIXES:
                    with file.open("rb", buffering=0) as opened:
                        while opened.readinto(buffer):
                            pass

    threading.Thread(target=read, name="platen-read-ahead", daemon=True).start()


def cache_folder() -> Path:
    """Where this user's copies lie: `$PLATEN_CACHE`, or `platen` under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PLATEN_CACHE") or Path(base) / "platen")


@contextmanager
def remembered_digests(folder: Path | None = None) -> Iterator[Callable[[Path], str]]:
    """SHA-256 of files on this machine, read anew only when a file has changed."""
    index = SourceIndex((folder or cache_folder()) / "digests.json")
    yield lambda file: index.describe(file, "").sha256
    with suppress(OSError):  # nowhere to remember them: they are read again next time
        index.save()


class HeldFolder:
    """A model's folder that no process removes while this object lives."""

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        # The operating system lets go of the lock with the descriptor, also when the process is killed.
        self._release = weakref.finalize(self, os.close, lock) if lock is not None else None

    def release(self) -> None:
        if self._release is not None:
            self._release()


class ModelCache:
    """Copies of remote model folders, `max_bytes` of them at most."""

    def __init__(self, folder: Path | None = None, *, max_bytes: int = DEFAULT_LIMIT) -> None:
        self._base = cache_folder() if folder is None else folder
        self._folder = self._base / "models"
        self._max_bytes = max_bytes

    def open(
        self,
        url: str,
        *,
        report: Report = no_report,
        waiting: Callable[[str], None] = lambda name: None,
        phase: Phase = no_phase,
    ) -> HeldFolder:
        """The model at `url` as a local folder, downloaded as far as it is not here.

        `waiting` is told when another process is downloading the same. Raises ArtifactError.
        """
        if url.startswith("file://"):
            return HeldFolder(Path(unquote(urlsplit(url).path)))
        with phase("list"):
            self._make_folder()
            remote = remote_folder(url)
            key, listing = self._listed(url, remote)
        lock = FileLock(self._folder / f"{key}.lock")

        def wait() -> AbstractContextManager[None]:
            waiting(remote.shown)
            return phase("wait for another")

        with _locked(lock, wait), remembered_digests(self._base) as digest:
            held = HeldFolder(self._folder / key, _hold(self._folder / f"{key}.use"))
            entry = self._make_room(key, listing, remote)
            files = entry.files(listing)
            fetch(remote, files, held.path, digest=digest, report=report, phase=phase)
            entry.write([replace(f, sha256=f.sha256 or digest(held.path / f.path)) for f in files])
            write_atomic(self._last(url), key.encode())
        return held

    def _listed(self, url: str, remote: Remote) -> tuple[str, Listing]:
        """The model at `url` now, with its name in the cache; what it was last time when nobody answers."""
        try:
            listing = list_model(remote)
            return f"{name_in(url)[:40]}-{listing.version}", listing
        except Unreachable as error:
            key = self._last(url).read_text() if self._last(url).is_file() else ""
            files = _Entry(self._folder / f"{key}.json").known
            if not files:
                raise
            log.warning("%s; the copy of it in %s is used", error.message, self._folder / key)
            return key, Listing(tuple(files), key)

    def _last(self, url: str) -> Path:
        """The file that says what was last found at `url`."""
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.url"

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"can't keep models in {self._folder}: {error.strerror}",
                hint="Set PLATEN_CACHE to a folder that can be written.",
            ) from None

    def _make_room(self, key: str, listing: Listing, remote: Remote) -> _Entry:
        """Enter the model, and take out those unused for longest until it fits."""
        with FileLock(self._folder / "room.lock"):
            entries = [_Entry(path) for path in self._folder.glob("*.json") if path.stem != key]
            others = sorted(entries, key=lambda entry: entry.used)
            taken = sum(entry.size for entry in others)
            for entry in others:
                if taken + listing.size <= self._max_bytes:
                    break
                if entry.remove():
                    taken -= entry.size
            if taken + listing.size > self._max_bytes:
                raise ArtifactError(
                    f"{remote.shown} has {listing.size:,} bytes, and the cache may take {self._max_bytes:,}, "
                    f"of which {taken:,} are in use",
                    hint=f"Raise serve.cache_gb, or stop what serves from {self._folder}.",
                )
            entry = _Entry(self._folder / f"{key}.json")
            entry.enter(listing)
        return entry


class _Entry:
    """A cached model's record, `KEY.json`; its time of change is when the model was last opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.known = [RemoteFile(**file) for file in json.loads(path.read_text())]
            self.used = path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            self.known, self.used = [], 0.0
        self.size = sum(file.size for file in self.known)

    def files(self, listing: Listing) -> list[RemoteFile]:
        """What to have: as listed, with the checksums seen when it first came."""
        seen = {file.path: file.sha256 for file in self.known}
        return [replace(f, sha256=f.sha256 or seen.get(f.path)) for f in listing.files]

    def enter(self, listing: Listing) -> None:
        if self.known:
            os.utime(self._path, (time.time(), time.time()))
        else:
            self.write(list(listing.files))

    def write(self, files: list[RemoteFile]) -> None:
        if files != self.known:
            self.known = files
            write_atomic(self._path, json.dumps([asdict(file) for file in files]).encode())

    def remove(self) -> bool:
        """Remove the model unless it is in use or being downloaded."""
        key = self._path.with_suffix("")
        try:
            with FileLock(f"{key}.lock", timeout=0):
                lock = os.open(f"{key}.use", os.O_CREAT | os.O_RDWR, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._path.unlink()
                    shutil.rmtree(key, ignore_errors=True)
                finally:
                    os.close(lock)
        except (Timeout, BlockingIOError):
            return False
        return True


def _hold(path: Path) -> int:
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


@contextmanager
def _locked(lock: FileLock, wait: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with wait():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
