"""Artifacts and the store that keeps them.

An artifact is a directory with a `manifest.json` that says what it is, what it was made from and how to
check it. A store is any fsspec URL. In a local store an artifact appears by one rename; in an object
store by its manifest, which is uploaded last. Either way a directory without a manifest does not count.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from platen import __version__
from platen.core.download import Remote, RemoteFile, fetch
from platen.core.errors import ArtifactError
from platen.core.files import sync, write_atomic

MANIFEST = "manifest.json"
_RECORDED_PACKAGES = ("torch", "tokenizers", "transformers", "safetensors", "numpy")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Record):
    """A file of an artifact, or a source file; `size` in bytes."""

    path: str
    size: int
    sha256: str


class Manifest(_Record):
    """What an artifact says of itself. `inputs` maps a role to `name/fingerprint`."""

    schema_version: int = 1
    name: str
    kind: str
    fingerprint: str
    code_version: int
    config: dict[str, Any]
    inputs: dict[str, str] = Field(default_factory=dict)
    sources: tuple[FileEntry, ...] = ()
    files: tuple[FileEntry, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    duration_s: float
    made_with: dict[str, str] = Field(default_factory=dict)

    @property
    def ref(self) -> str:
        return f"{self.name}/{self.fingerprint}"

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact whose files can be read under `path`."""

    path: Path
    manifest: Manifest


def fingerprint(name: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash of a stage's name, code version, config and inputs' fingerprints: 16 hex digits."""
    text = json.dumps([name, version, config, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_with() -> dict[str, str]:
    """The versions that could change an artifact's bytes."""
    versions = {"platen": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def describe_files(directory: Path) -> tuple[FileEntry, ...]:
    """Every file below a directory but the manifest, by path, with its size and hash."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)
    return tuple(
        FileEntry(path=p.relative_to(directory).as_posix(), size=p.stat().st_size, sha256=sha256_file(p))
        for p in paths
    )


class Store:
    """Artifacts by name and fingerprint, at a local folder or any fsspec URL.

    `scratch` is a local folder: work in progress lives there, and copies of remote artifacts.
    """

    def __init__(self, url: str, *, base: Path, scratch: Path, shown: str | None = None) -> None:
        """`shown` is the URL as messages may have it, where the real one holds a secret."""
        import fsspec

        protocol, _, rest = url.partition("://")
        self.shown = url if shown is None else shown
        self.work_root = scratch / "work"
        self._cache_root = scratch / "cache"
        try:
            if not rest or protocol == "file":
                root = Path(rest or url).expanduser()
                self._local: Path | None = root if root.is_absolute() else base / root
                self._fs, self._root = fsspec.filesystem("file"), str(self._local)
            else:
                self._local = None
                self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            reason = str(error).replace(url, self.shown) if protocol in str(error) else type(error).__name__
            raise ArtifactError(
                f"store {self.shown}: {reason}", hint="see the fsspec documentation"
            ) from None

    # -- reading ------------------------------------------------------------------------------------

    def _at(self, *parts: str) -> str:
        return str(PurePosixPath(self._root, *parts))

    def read_manifest(self, name: str, fingerprint: str) -> Manifest | None:
        """The manifest of a finished artifact, or None."""
        path = self._at(name, fingerprint, MANIFEST)
        try:
            return Manifest.model_validate_json(self._fs.cat_file(path))
        except FileNotFoundError:
            return None
        except (ValidationError, ValueError) as error:
            raise ArtifactError(
                f"{name}/{fingerprint}/{MANIFEST} in {self.shown} is damaged: {error}",
                hint="run again; it is made anew",
            ) from error

    def check(self, name: str, fingerprint: str) -> tuple[Manifest | None, str]:
        """The manifest of an artifact that can be used, else None and what is damaged about it.

        Nothing is said of one that is not there. Of a local one, presence and size of each file are looked
        at; of a remote one, the manifest.
        """
        try:
            manifest = self.read_manifest(name, fingerprint)
        except ArtifactError as error:
            return None, error.message
        if manifest is None or self._local is None:
            return manifest, ""
        damaged = _first_damaged(self._local / name / fingerprint, manifest)
        return (None, f"{damaged} is missing or has changed") if damaged else (manifest, "")

    def find(self, name: str, fingerprint: str) -> Artifact | None:
        """A finished artifact with its files on local disk, or None.

        A remote artifact is copied to a local cache and verified by its checksums; a local one is
        checked for presence and size of each file.
        """
        manifest = self.read_manifest(name, fingerprint)
        if manifest is None:
            return None
        if self._local is None:
            return Artifact(self._fetch(manifest), manifest)
        path = self._local / name / fingerprint
        if damaged := _first_damaged(path, manifest):
            raise ArtifactError(
                f"{path / damaged} is missing or has changed since it was made",
                hint="platen run makes it anew",
            )
        return Artifact(path, manifest)

    def _fetch(self, manifest: Manifest) -> Path:
        target = self._cache_root / manifest.name / manifest.fingerprint
        target.mkdir(parents=True, exist_ok=True)
        with _file_lock(target.with_name(target.name + ".lock")):
            if (target / MANIFEST).is_file() and not _first_damaged(target, manifest):
                return target
            (target / MANIFEST).unlink(missing_ok=True)
            fetch(
                Remote(
                    self._fs, self._at(manifest.name, manifest.fingerprint), f"{self.shown}/{manifest.ref}"
                ),
                [RemoteFile(entry.path, entry.size, entry.sha256) for entry in manifest.files],
                target,
                digest=sha256_file,
            )
            write_atomic(target / MANIFEST, manifest.model_dump_json(indent=2).encode())
        return target

    def manifests(self) -> list[Manifest]:
        """All finished artifacts, oldest first; one whose manifest can't be read is none."""
        found = []
        for path in self._fs.glob(self._at("*", "*", MANIFEST)):
            if PurePosixPath(path).parts[-2].endswith(".tmp"):
                continue
            with contextlib.suppress(ArtifactError):  # whoever needs this one is told by `check`
                found.append(self.read_manifest(*PurePosixPath(path).parts[-3:-1]))
        return sorted((m for m in found if m is not None), key=lambda m: m.created_at)

    def verify(self, artifact: Artifact) -> list[str]:
        """Paths of an artifact's files that no longer match their checksums."""
        return [
            e.path
            for e in artifact.manifest.files
            if not (artifact.path / e.path).is_file() or sha256_file(artifact.path / e.path) != e.sha256
        ]

    # -- writing ------------------------------------------------------------------------------------

    def work_dir(self, name: str, fingerprint: str, *, keep: bool) -> Path:
        """The directory where an artifact is being made: what a killed run left when `keep`, else empty."""
        path = self.work_root / f"{name}-{fingerprint}"
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, work: Path, manifest: Manifest) -> Artifact:
        """Publish a finished work directory under its name and fingerprint, in one step."""
        manifest = manifest.model_copy(update={"files": describe_files(work)})
        data = manifest.model_dump_json(indent=2).encode()
        if self._local is None:
            for entry in manifest.files:
                remote = self._at(manifest.name, manifest.fingerprint, entry.path)
                self._fs.makedirs(str(PurePosixPath(remote).parent), exist_ok=True)
                self._fs.put_file(str(work / entry.path), remote)
            self._fs.pipe_file(self._at(manifest.name, manifest.fingerprint, MANIFEST), data)
            cached = self._cache_root / manifest.name / manifest.fingerprint
            return self._publish(work, cached, data, manifest)
        return self._publish(work, self._local / manifest.name / manifest.fingerprint, data, manifest)

    def _publish(self, work: Path, target: Path, data: bytes, manifest: Manifest) -> Artifact:
        write_atomic(work / MANIFEST, data)
        for entry in manifest.files:
            sync(work / entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # without a manifest, or its files were damaged
            (target / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(target)
        try:
            work.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The store is on another file system: copy beside the target, then rename.
            partial = target.with_name(target.name + ".tmp")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(work, partial)
            for entry in manifest.files:
                sync(partial / entry.path)
            partial.rename(target)
            shutil.rmtree(work)
        sync(target.parent)
        return Artifact(target, manifest)

    def delete(self, manifest: Manifest) -> None:
        """Remove an artifact, its manifest first so that a half-removed one does not count."""
        directory = self._at(manifest.name, manifest.fingerprint)
        self._fs.rm_file(f"{directory}/{MANIFEST}")
        self._fs.rm(directory, recursive=True) if self._fs.exists(directory) else None
        shutil.rmtree(self._cache_root / manifest.name / manifest.fingerprint, ignore_errors=True)

    def leftovers(self) -> list[Path]:
        """Local directories of work that never finished."""
        half_copied = self._local.glob("*/*.tmp") if self._local else iter(())
        work = self.work_root.iterdir() if self.work_root.is_dir() else iter(())
        return sorted([*work, *half_copied])


def _first_damaged(directory: Path, manifest: Manifest) -> str | None:
    """The first file that is not there or has another size than the manifest says."""
    for entry in manifest.files:
        file = directory / entry.path
        if not file.is_file() or file.stat().st_size != entry.size:
            return entry.path
    return None


def _file_lock(path: Path) -> AbstractContextManager[object]:
    from filelock import FileLock

    return FileLock(path)


class SourceIndex:
    """SHA-256 of source files, remembered by size, time and inode so that a fresh run reads nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            self._known: dict[str, list[Any]] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def describe(self, file: Path, label: str) -> FileEntry:
        stat = file.stat()
        key, stamp = str(file.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(key)
        # A file touched within the last seconds may change again under the same time stamp.
        settled = time.time() - stat.st_mtime > 2
        if known is not None and known[:3] == stamp and settled:
            digest = str(known[3])
        else:
            digest = sha256_file(file)
            self._known[key] = [*stamp, digest]
            self._changed = True
        return FileEntry(path=label, size=stat.st_size, sha256=digest)

    def save(self) -> None:
        if self._changed:
            write_atomic(self._path, json.dumps(self._known).encode())


def now() -> datetime:
    return datetime.now(UTC)
