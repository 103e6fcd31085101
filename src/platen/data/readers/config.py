"""The project file's `data.sources` and `data.limits`: where text comes from and what is too much."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from platen.core.checks import check_encoding
from platen.core.config import PositiveInt, Section, Text

Format = Literal[
    "text",
    "html",
    "pdf",
    "docx",
    "epub",
    "json",
    "jsonl",
    "csv",
    "parquet",
    "warc",
    "git",
    "slack",
    "slack-api",
    "huggingface",
    "sql",
]


ChannelKind = Literal["public", "private", "dm", "group-dm"]


OnError = Literal["stop", "quarantine"]


class Source(Section):
    """Where text comes from."""

    path: Text
    """A file, a folder or a glob, relative to the project file, or an fsspec URL. With `format`: a git
    repository, a Slack export, a data set's name or folder, a database's URL."""
    encoding: Annotated[str, AfterValidator(check_encoding)] = "utf-8"
    """Text encoding of the files; bytes that do not decode are an error, never guessed."""
    format: Format | None = None
    """How to read it; default: by the file name's suffix."""
    text: Text = "text"
    """The key or column that holds the text: JSON, JSONL, CSV, Parquet, huggingface, sql."""
    query: Text | None = None
    """sql: the SELECT whose rows are the documents."""
    subset: Text | None = None
    """huggingface: the data set's configuration."""
    split: Text = "train"
    """huggingface: the data set's split."""
    revision: Text | None = None
    """git: the commit, tag or branch (default: HEAD). huggingface: the data set's revision. For sources
    without files to compare (huggingface by name, sql, slack-api) a new value makes the stage read again."""
    channels: tuple[Text, ...] = ()
    """slack: only these channels, by name or id; all when empty."""
    kinds: tuple[ChannelKind, ...] = ("public", "private", "dm", "group-dm")
    """slack: only these kinds of channels."""
    users: tuple[Text, ...] = ()
    """slack: keep only what these people wrote, by id, handle or name; everyone when empty."""
    gap_minutes: PositiveInt = 60
    """slack: messages outside threads belong together until nobody writes for this long."""

    @model_validator(mode="after")
    def _query_of_sql(self) -> Source:
        if (self.format == "sql") != (self.query is not None):
            raise ValueError("query and format: sql go together: a database is read by a query")
        return self


class ReadLimits(Section):
    """What is too much for one record; more goes to quarantine rather than into memory."""

    line_bytes: PositiveInt = 16 * 2**20
    """Bytes of one line or record."""
    document_bytes: PositiveInt = 64 * 2**20
    """Bytes of one file that is one document, and of one entry of an archive."""
    expanded_bytes: PositiveInt = 256 * 2**20
    """Bytes that a DOCX or EPUB may unpack to."""
    expansion: PositiveInt = 200
    """How many times larger than stored an archive's entry or a compressed file may be."""
    parse_seconds: PositiveInt = 30
    """Processor time that parsing one document may take."""
    parse_memory_bytes: Annotated[int, Field(ge=256 * 2**20)] = 2**30
    """Memory of the process that parses HTML, PDF, DOCX and EPUB."""
