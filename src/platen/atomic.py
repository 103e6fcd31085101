"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from platen.errors import ConfigError


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old bytes or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(folder: Path, mark: str) -> None:
    """Refuse a folder of somebody's: only one that is empty, or has the file `mark`, may be replaced.

    Raises ConfigError.
    """
    if folder.is_dir():
        known = (folder / mark).is_file() or not any(folder.iterdir())
    else:
        known = not os.path.lexists(folder)
    if not known:
        raise ConfigError(
            f"{folder} exists, and what it holds would be lost", hint="Name a new folder, or an empty one."
        )


@contextlib.contextmanager
def replaced_folder(folder: Path, mark: str) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends well, and else goes.

    What is written has a file `mark`, by which it is known later. Raises ConfigError for a folder that is
    neither empty nor has one.
    """
    folder = folder.resolve()
    check_replaceable(folder, mark)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
