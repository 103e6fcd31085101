"""Sources that are not found as files: repositories, Slack, data sets, databases; what can be watched.

Each is one SourceFile, whatever lies behind it.
"""

from __future__ import annotations

from pathlib import Path

from platen.core.errors import DataError
from platen.data.readers.config import ReadLimits, Source
from platen.data.sourcefile import SourceFile


def find_whole(project_dir: Path, source: Source, limits: ReadLimits) -> SourceFile | None:
    """The one file that a source of such a format is; None for a Slack export that is found like any file.

    Raises DataError when it is not there.
    """
    if source.format == "sql":
        return _database(project_dir, source, limits)
    path = project_dir / source.path
    if source.format == "huggingface" and not path.is_dir():
        return SourceFile(source.path, source.path, source, limits)
    if source.format == "slack-api" or path.is_dir():
        return SourceFile(path, file_name(path, project_dir), source, limits)
    if source.format == "git":
        raise DataError(
            f"{path} is no folder, so no git repository",
            hint="Clone a remote repository first and give the clone's folder.",
        )
    return None


def watched(file: SourceFile) -> list[Path | str]:
    """The files whose change makes a new reading worth it; links that lead nowhere are not among them."""
    if file.source.format == "git":
        from platen.data.readers.git import heads

        return [*heads(Path(file.location), file.source.revision)]
    if file.source.format == "slack-api":
        return []
    if file.source.format == "sql":
        database = _sqlite_file(str(file.location))
        return [] if database is None else [database]
    if isinstance(file.location, Path):
        if file.location.is_dir():
            return sorted(path for path in file.location.rglob("*") if path.is_file())
        return [file.location] if file.location.is_file() else []
    return [] if file.source.format == "huggingface" else [file.location]


def file_name(path: Path, project_dir: Path) -> str:
    """How a local file is called: its path from the project's folder, else the whole one.

    Bytes in it that are no UTF-8 are escaped: names go into files of UTF-8.
    """
    if path.is_relative_to(project_dir):
        path = path.relative_to(project_dir)
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _database(project_dir: Path, source: Source, limits: ReadLimits) -> SourceFile:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from platen.data.readers.sql import address

    name = address(source.path)
    try:
        url = make_url(source.path)
    except (ArgumentError, ValueError):
        raise DataError(
            f"{name} is no database URL",
            hint="One looks like sqlite:///tickets.db or postgresql+psycopg://user@host/database.",
        ) from None
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(project_dir / url.database))
        if not Path(url.database or "").is_file():  # SQLite would make an empty one
            raise DataError(f"{url.database} does not exist", hint="Correct the path in the URL.")
    return SourceFile(url.render_as_string(hide_password=False), name, source, limits)


def _sqlite_file(url: str) -> Path | None:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
