"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from platen.core.outputs import check_new_folder


def write_synced(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file and wait until the disk has it. `mode`: a new file's permissions, less the umask."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names after a rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader, or a crash, sees the old bytes or the new, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        write_synced(temporary, data, mode=mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_folder(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends well, and else goes.

    What is written may have a file `mark`, by which it is known later. Raises ConfigError as
    `check_new_folder`.
    """
    check_new_folder(folder, mark)
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
