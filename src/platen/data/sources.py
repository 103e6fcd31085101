"""Where documents come from: files, folders, globs, fsspec URLs, repositories, databases, data sets, Slack.

Finding is here, reading in `readers`. Bytes that are no text in the stated encoding are never guessed at: a
guess would poison a corpus silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platen.core.errors import DataError
from platen.data.config import DataConfig
from platen.data.document import Broken, Document, LeftOut, Record
from platen.data.readers.choose import FORMATS, WHOLE, read_records, suffix
from platen.data.readers.config import Source
from platen.data.sourcefile import SourceFile
from platen.data.whole_files import file_name, find_whole, watched

__all__ = ["Broken", "Document", "LeftOut", "Record", "SourceFile", "find_files", "read_documents"]

_DATABASES = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")


def source_files(project_dir: Path, config: DataConfig) -> tuple[Path | str, ...]:
    """Every file whose change makes the data stage stale: local ones as Path, others as URL.

    A data set by name, a database that is no file and Slack's API have none. Raises DataError.
    """
    found: dict[Path | str, None] = {}
    for file in find_files(project_dir, config):
        found |= dict.fromkeys(watched(file))
    return tuple(found)


def find_files(project_dir: Path, config: DataConfig) -> tuple[SourceFile, ...]:
    """Expand `data.sources`, each file once. Raises DataError for a source that matches nothing.

    With `data.on_error: stop` also for a link that leads nowhere; else reading it says so.
    """
    found: dict[str, SourceFile] = {}
    for number, source in enumerate(config.sources):
        for file in _files_of(project_dir, source, config):
            # One database may be read by several queries; a file is read once.
            key = f"{number}: {file.location}" if source.format in WHOLE else str(file.location)
            found.setdefault(key, file)
    return tuple(found.values())


def read_documents(file: SourceFile) -> Iterator[Document]:
    """The documents of a file, in order. Raises DataError with the place of the first that can't be read."""
    for record in read_records(file):
        if isinstance(record, Broken):
            raise record.error()
        if isinstance(record, Document):
            yield record


def _files_of(project_dir: Path, source: Source, config: DataConfig) -> list[SourceFile]:
    if source.format in WHOLE:
        whole = find_whole(project_dir, source, config.limits)
        if whole is not None:
            return [whole]
    elif source.path.partition("://")[0] in _DATABASES:
        raise DataError(
            f"{source.path.partition('://')[0]}:// is a database",
            hint="Read it with format sql and a query: SELECT …",
        )
    found = _remote_files(source) if "://" in source.path else _local_files(project_dir, source, config)
    if not found:
        raise DataError(
            f"{source.path} matches no file",
            hint=f"A folder gives its {', '.join(FORMATS)} files; for other names give a glob such as "
            "corpus/*.log.",
        )
    return [SourceFile(location, name, source, config.limits) for location, name in found]


def _local_files(project_dir: Path, source: Source, config: DataConfig) -> list[tuple[Path | str, str]]:
    path = Path(source.path)
    absolute = path if path.is_absolute() else project_dir / path
    if absolute.is_dir():
        paths = [found for found in absolute.rglob("*") if suffix(found.name) in FORMATS]
    elif _is_glob(source.path):
        anchor = Path(path.anchor) if path.is_absolute() else project_dir
        paths = list(anchor.glob(str(path.relative_to(path.anchor))))
    elif absolute.exists():
        paths = [absolute]
    else:
        raise DataError(
            f"{absolute} does not exist",
            hint="Correct the path; in a project it is relative to the project file.",
        )
    for found in paths if config.on_error == "stop" else ():
        if found.is_symlink() and not found.exists():
            raise DataError(f"{found} is a link that leads nowhere", hint="Mend the link or remove it.")
    files = [found for found in sorted(paths) if not found.is_dir() and not found.name.startswith(".")]
    return [(found, file_name(found, project_dir)) for found in files]


def _remote_files(source: Source) -> list[tuple[Path | str, str]]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(source.path)
        if filesystem.isdir(path):
            paths = [name for name in filesystem.find(path) if suffix(name) in FORMATS]
        else:
            paths = filesystem.glob(path) if filesystem.exists(path) or _is_glob(path) else []
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{source.path} can't be listed: {error}",
            hint="Check the address and your access; some protocols need a package (s3fs, gcsfs, adlfs).",
        ) from None
    urls: list[Any] = [filesystem.unstrip_protocol(name) for name in sorted(paths)]
    return [(url, url) for url in urls]


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")
