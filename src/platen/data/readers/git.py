"""The text files of a git repository at a revision, one document each, read without a checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from platen.core.errors import DataError
from platen.data.document import Broken, Document, LeftOut, Record
from platen.data.readers.decoding import decode
from platen.data.sourcefile import SourceFile

_SNIFFED = 8000  # bytes in which git itself looks for a zero to tell binary from text


def read(file: SourceFile) -> Iterator[Record]:
    repository = Path(file.location)
    commit = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{_revision(file)}^{{commit}}")
    with _streaming(repository, "ls-tree", "-r", "-z", "--long", commit) as tree, _blobs(repository) as blobs:
        for entry in _entries(tree):
            about, _, path = entry.partition(b"\t")
            mode, kind, hash, size = about.decode().split()
            name = f"{file.name}:{path.decode('utf-8', 'replace')}"
            if mode == "120000" or kind != "blob":
                yield LeftOut(name, "link" if mode == "120000" else "submodule")
                continue
            if int(size) > file.limits.document_bytes:
                yield Broken(
                    name,
                    "too-large",
                    f"{name} has {int(size):,} bytes",
                    "Raise data.limits.document_bytes in a project file if it is wanted.",
                )
                continue
            yield _document(blobs.content(hash, int(size)), file, name, commit)


def heads(repository: Path, revision: str | None) -> tuple[Path, ...]:
    """The files of the repository that change when the revision comes to mean another commit."""
    git_dir = Path(_git(repository, "rev-parse", "--absolute-git-dir"))
    name = _git(repository, "rev-parse", "--symbolic-full-name", "--end-of-options", revision or "HEAD")
    reference = name.splitlines()[-1] if name else ""
    candidates = (git_dir / "HEAD", git_dir / "packed-refs", git_dir / reference)
    return tuple(path for path in candidates if path.is_file())


def _revision(file: SourceFile) -> str:
    return file.source.revision or "HEAD"


def _document(raw: bytes, file: SourceFile, name: str, commit: str) -> Record:
    if b"\0" in raw[:_SNIFFED]:
        return LeftOut(name, "binary")
    if not raw.strip():
        return LeftOut(name, "empty")
    text = decode(raw, file, place=name)
    if isinstance(text, Broken):
        return Broken(name, text.reason, text.detail.replace(file.name, name, 1), text.hint)
    return Document(name, text, file.name, {"path": name.partition(":")[2], "commit": commit})


def _command(repository: Path, *arguments: str) -> list[str]:
    # A repository's own settings may name programs to run; those that these commands look at are off.
    return ["git", "-C", str(repository), "-c", "core.fsmonitor=false", "-c", "core.pager=cat", *arguments]


def _git(repository: Path, *arguments: str) -> str:
    """What a short git command prints. Raises DataError with what git says."""
    try:
        done = subprocess.run(
            _command(repository, *arguments), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{repository}: {error}", hint="Is git installed?") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["git failed"])[-1]
        raise DataError(
            f"{repository} can't be read as a git repository: {said}", hint="Check the path and the revision."
        )
    return done.stdout.strip()


@contextmanager
def _streaming(repository: Path, *arguments: str) -> Iterator[IO[bytes]]:
    process = subprocess.Popen(
        _command(repository, *arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def _entries(stream: IO[bytes]) -> Iterator[bytes]:
    """The NUL-ended entries of `ls-tree -z`."""
    held = b""
    while part := stream.read1(2**16):  # type: ignore[attr-defined]
        *whole, held = (held + part).split(b"\0")
        yield from whole


class _Blobs:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._ask, self._answer = process.stdin, process.stdout

    def content(self, hash: str, size: int) -> bytes:
        self._ask.write(hash.encode() + b"\n")
        self._ask.flush()
        header = self._answer.readline()
        if not header.endswith(f" {size}\n".encode()):
            raise DataError(f"git has no object {hash}", hint="Check the repository with git fsck.")
        content = self._answer.read(size + 1)[:size]
        if len(content) != size:
            raise DataError(f"git broke off in object {hash}", hint="Check the repository with git fsck.")
        return content


@contextmanager
def _blobs(repository: Path) -> Iterator[_Blobs]:
    process = subprocess.Popen(
        _command(repository, "cat-file", "--batch"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _Blobs(process)
    finally:
        process.kill()
        process.communicate()
