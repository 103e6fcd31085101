"""Models kept elsewhere: a folder at an fsspec URL, copied into a cache on this machine and held there.

A finished artifact's folder comes with checksums in its manifest; any other folder is taken as it lies, and
its checksums are those of what first came. The cache has a limit and gives up what was used longest ago,
never what a process has open. `file://` is served from where it lies, like any folder: mapped, not copied.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from platen.artifacts import MANIFEST, Manifest, SourceIndex, write_atomic
from platen.download import Remote, RemoteFile, Report, fetch, no_report
from platen.errors import ArtifactError
from platen.phases import Phase, no_phase

DEFAULT_LIMIT = 100 * 10**9
"""Bytes that cached models may take together."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")


def read_ahead(folder: Path) -> None:
    """Read a model's weights on a thread, so that they are in the page cache when they are mapped."""

    def read() -> None:
        buffer = bytearray(4 * 2**20)
        with suppress(OSError):  # whoever opens the model says what is wrong with it
            for file in sorted(folder.iterdir()):
                if file.suffix in WEIGHT_SUFFIXES:
                    with file.open("rb", buffering=0) as opened:
                        while opened.readinto(buffer):
                            pass

    threading.Thread(target=read, name="platen-read-ahead", daemon=True).start()


def is_url(text: str) -> bool:
    return "://" in text


def name_in(url: str) -> str:
    """What a model at this URL is called: its folder's name."""
    parts = urlsplit(url)
    return PurePosixPath(unquote(parts.path)).name or parts.netloc.rpartition("@")[2]


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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


@dataclass(frozen=True)
class Listing:
    """What a remote folder holds."""

    files: tuple[RemoteFile, ...]
    version: str
    """Changes when any of the files does."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


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
            remote = _remote(url)
            listing = _list(remote)
        key = f"{name_in(url)[:40]}-{listing.version}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"can't keep models in {self._folder}: {error.strerror}",
                hint="Set PLATEN_CACHE to a folder that can be written.",
            ) from None
        lock = FileLock(self._folder / f"{key}.lock")
        with _locked(lock, lambda: waiting(remote.shown)), remembered_digests(self._base) as digest:
            held = HeldFolder(self._folder / key, _hold(self._folder / f"{key}.use"))
            entry = self._make_room(key, listing, remote)
            files = entry.files(listing)
            fetch(remote, files, held.path, digest=digest, report=report, phase=phase)
            entry.write([replace(f, sha256=f.sha256 or digest(held.path / f.path)) for f in files])
        return held

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
            self._files = [RemoteFile(**file) for file in json.loads(path.read_text())]
            self.used = path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            self._files, self.used = [], 0.0
        self.size = sum(file.size for file in self._files)

    def files(self, listing: Listing) -> list[RemoteFile]:
        """What to have: as listed, with the checksums seen when it first came."""
        seen = {file.path: file.sha256 for file in self._files}
        return [replace(f, sha256=f.sha256 or seen.get(f.path)) for f in listing.files]

    def enter(self, listing: Listing) -> None:
        if self._files:
            os.utime(self._path, (time.time(), time.time()))
        else:
            self.write(list(listing.files))

    def write(self, files: list[RemoteFile]) -> None:
        if files != self._files:
            self._files = files
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
def _locked(lock: FileLock, waiting: Callable[[], None]) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remote(url: str) -> Remote:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ArtifactError(
            f"{shown(url)}: {error}", hint="Install the named package to read such URLs."
        ) from None
    except ValueError:
        raise ArtifactError(
            f"{shown(url)} is no address that fsspec knows", hint="see the fsspec documentation"
        ) from None
    return Remote(fs, root.rstrip("/"), shown(url))


def _list(remote: Remote) -> Listing:
    """What there is at `remote`. Raises ArtifactError when it is nothing or can't be asked."""
    try:
        try:
            manifest = Manifest.model_validate_json(remote.fs.cat_file(remote.at(MANIFEST)))
        except FileNotFoundError:
            return _list_plain(remote)
    except ArtifactError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"there is no model at {remote.shown}", hint="Check the address.") from None
    except ValueError:
        raise ArtifactError(
            f"{MANIFEST} at {remote.shown} is damaged", hint="Put the artifact there again."
        ) from None
    except Exception as error:  # each file system has errors of its own
        raise ArtifactError(
            f"{remote.shown} can't be read: {type(error).__name__}",
            hint="Check the address, the network and the credentials in the environment.",
        ) from None
    # A model's files lie at the top; below are a training's curves and checkpoints, as large again.
    files = tuple(RemoteFile(e.path, e.size, e.sha256) for e in manifest.files if "/" not in e.path)
    return Listing(files, _hash([[f.path, f.size, f.sha256] for f in files]))


def _list_plain(remote: Remote) -> Listing:
    """A folder without a manifest. Its version is what the file system says of each file's state."""
    files, states = [], []
    for info in sorted(remote.fs.ls(remote.root, detail=True), key=lambda info: str(info["name"])):
        name = info["name"]
        if info["type"] != "file":
            continue
        if info.get("size") is None:
            info = remote.fs.info(name)
        files.append(RemoteFile(name.rpartition("/")[2], int(info["size"])))
        states.append([name, info["size"], remote.fs.ukey(name)])
    if not any(file.path == "config.json" for file in files):
        raise ArtifactError(
            f"there is no model at {remote.shown}: neither {MANIFEST} nor config.json",
            hint="Give the address of a bundle's or a compiled model's folder.",
        )
    return Listing(tuple(files), _hash(states))


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
