"""A database by a query: one document a row, streamed, in a transaction that is always rolled back."""

from __future__ import annotations

from collections.abc import Iterator

from platen.data.document import Broken, Record
from platen.data.readers.needs import needs
from platen.data.readers.records import document_of
from platen.data.sourcefile import SourceFile

_BATCH = 500


def read(file: SourceFile) -> Iterator[Record]:
    needs("sqlalchemy", "reading from a database")
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    number = 0
    try:
        engine = sqlalchemy.create_engine(str(file.location))
    except (SQLAlchemyError, ImportError, ValueError) as error:
        yield _failed(file, error)
        return
    try:
        with engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=_BATCH)
            rows = streaming.execute(sqlalchemy.text(file.source.query or ""))
            if not rows.returns_rows:
                yield Broken(file.name, "no-rows", f"{file.name}: the query gives no rows", "Write a SELECT.")
                return
            for row in rows.mappings():
                number += 1
                yield document_of(row, file, f"{file.name}:{number}", f"{file.name}, row {number}")
            connection.rollback()
    except SQLAlchemyError as error:
        yield _failed(file, error)
        return
    finally:
        engine.dispose()
    if number == 0:
        yield Broken(file.name, "empty", f"{file.name}: the query finds no row", "Look at the query.")


def _failed(file: SourceFile, error: Exception) -> Broken:
    """What the driver says; never the URL, which may hold a password."""
    said = str(getattr(error, "orig", None) or error).splitlines()[0].replace(str(file.location), file.name)
    return Broken(
        file.name,
        "unreadable",
        f"{file.name}: {said}",
        "Check the URL, the driver's package and the query.",
    )


def address(url: str) -> str:
    """The URL of a database without its password, for names and messages."""
    needs("sqlalchemy", "reading from a database")
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return url.partition("://")[0] + "://…"
