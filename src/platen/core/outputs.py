"""Places that commands write to: looked at before the work, so that none is lost for want of one."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from platen.core.errors import ConfigError


def check_file(path: Path, option: str, suffixes: Collection[str] = ()) -> None:
    """Refuse a path that no file can be written to, or none with such a name, where the name says the format.

    `option` names the path in messages. Raises ConfigError.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{option}: {path} says no format that can be written", hint=f"End it with {', '.join(suffixes)}."
        )
    if path.is_dir():
        raise ConfigError(f"{option}: {path} is a folder", hint="Give the name of a file.")
    if not path.parent.is_dir():
        raise ConfigError(
            f"{option}: there is no folder {path.parent}", hint="Make it, or choose another place."
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(
            f"{option}: {path} can't be written", hint="Check the permissions, or choose another place."
        )


def check_folder(folder: Path) -> None:
    """Refuse a place where there is no folder to write into and none can be made. Raises ConfigError."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} exists and is no folder", hint="Name a new folder.")
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        raise ConfigError(f"{folder} can't be made: {there} is no folder", hint="Choose another place.")
    if not os.access(there, os.W_OK):
        raise ConfigError(
            f"nothing can be written to {there}", hint="Check the permissions, or choose another place."
        )


def check_new_folder(folder: Path, mark: str | None = None) -> None:
    """Refuse also a folder of somebody's: only one that is empty, or has the file `mark`, may be replaced.

    Raises ConfigError.
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (mark and (folder / mark).is_file()):
        raise ConfigError(
            f"{folder} exists, and what it holds would be lost", hint="Name a new folder, or an empty one."
        )
