"""Which reader a source file gets: by the source's format, else by the file name's suffix."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from importlib import import_module

from platen.core.errors import DataError
from platen.data.document import Broken, Record
from platen.data.readers.config import Format
from platen.data.sourcefile import COMPRESSED, SourceFile, TooMuch

FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".epub": "epub",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".warc": "warc",
}
WHOLE: tuple[Format, ...] = ("git", "slack", "slack-api", "huggingface", "sql")
"""Formats of sources that are not made of files to be found: a folder, a name or a URL is the whole."""
_PARSED = ("html", "pdf", "docx", "epub")
_MODULES = {"json": "jsonarray", "csv": "csvtable"}


def suffix(name: str) -> str:
    """The suffix that tells the format: `.jsonl` of `web.jsonl.gz`, lower-case, empty without one."""
    name = name.lower().rpartition("/")[2]
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return "." + name.rpartition(".")[2] if "." in name else ""


def format_of(file: SourceFile) -> Format:
    """The source's format; else by suffix, where any unknown one is text."""
    if file.source.format is not None:
        return file.source.format
    return FORMATS.get(suffix(file.name), "slack" if file.name.lower().endswith(".zip") else "text")


def read_records(file: SourceFile) -> Iterator[Record]:
    """What is in a file, in order; what can't be read is a Broken, not an error.

    Raises MissingExtraError where the format's library is not installed.
    """
    format = format_of(file)
    try:
        if format in _PARSED:
            yield from import_module("platen.data.readers.parsed").read(file, format)
        else:
            yield from import_module(f"platen.data.readers.{_MODULES.get(format, _module(format))}").read(
                file
            )
    except DataError as error:
        yield Broken(file.name, "unreadable", error.message, error.hint or "")
    except TooMuch as error:
        hint = "It may be a bomb; if it is not, raise data.limits.expansion in a project file."
        yield Broken(file.name, "expansion", f"{file.name} {error}", hint)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        detail = f"{file.name} is cut short or damaged: {error}"
        yield Broken(file.name, "truncated", detail, "Get the file again.")
    except (OSError, io.UnsupportedOperation) as error:
        yield Broken(
            file.name, "unreadable", f"{file.name} can't be read: {error}", "Check its disk or server."
        )


def _module(format: Format) -> str:
    return "slack" if format == "slack-api" else format
