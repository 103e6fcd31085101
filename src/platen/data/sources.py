"""Where documents come from: files, folders, globs and fsspec URLs, decoded strictly.

A text file is one document; a `.jsonl` file is one document a line, under the key `text`. Bytes that are no
text in the stated encoding are an error with their offset: a guess would poison a corpus silently.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from platen.errors import DataError
from platen.project import DataConfig, Source

TEXT_SUFFIXES = (".txt", ".text", ".md", ".jsonl")
"""What is taken from a folder; a glob takes any name."""


@dataclass(frozen=True)
class Document:
    """A text as it was read. `id` is unique in a corpus; `source` is the file it came from."""

    id: str
    text: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it: JSON values."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read: a local path, or an fsspec URL as text. `name` is how documents and errors call it."""

    location: Path | str
    name: str
    encoding: str

    def open(self) -> IO[bytes]:
        """Open for reading; DataError when that fails."""
        try:
            if isinstance(self.location, Path):
                return self.location.open("rb")
            import fsspec

            opened: IO[bytes] = fsspec.open(self.location, "rb").open()
            return opened
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"{self.name} can't be read: {error}", hint="Check that it exists and is yours to read."
            ) from None

    def size(self) -> int:
        """Bytes, for progress."""
        if isinstance(self.location, Path):
            return self.location.stat().st_size
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(self.location)
        return int(filesystem.size(path) or 0)


def source_files(project_dir: Path, config: DataConfig) -> tuple[Path | str, ...]:
    """Every file that the data stage will read: local ones as Path, others as URL; sorted within a source."""
    return tuple(file.location for file in find_files(project_dir, config))


def find_files(project_dir: Path, config: DataConfig) -> tuple[SourceFile, ...]:
    """Expand `data.sources`, each file once. Raises DataError for a source that matches nothing."""
    found: dict[Path | str, SourceFile] = {}
    for source in config.sources:
        files = _remote_files(source) if "://" in source.path else _local_files(project_dir, source)
        if not files:
            raise DataError(
                f"data.sources: {source.path} matches no file",
                hint=f"A folder gives its {', '.join(TEXT_SUFFIXES)} files; for other names give a glob "
                "such as corpus/*.log.",
            )
        for file in files:
            found.setdefault(file.location, file)
    return tuple(found.values())


def read_documents(file: SourceFile) -> Iterator[Document]:
    """The documents of a file, in order.

    Raises DataError with the file's name and byte offset for an empty or binary file, bytes that the encoding
    doesn't have, and JSON lines without a text.
    """
    if file.name.endswith(".jsonl"):
        yield from _read_json_lines(file)
        return
    with file.open() as stream:
        raw = stream.read()
    if not raw:
        raise DataError(f"{file.name} is empty", hint="Fill the file or take it out of data.sources.")
    yield Document(id=file.name, text=_decode(raw, file, at=0), source=file.name)


def _read_json_lines(file: SourceFile) -> Iterator[Document]:
    number = 0
    for number, (at, line) in enumerate(_lines(file), start=1):
        text = line.removeprefix("\ufeff")  # a byte order mark
        if text.strip():
            yield _json_document(text, file, number, at)
    if number == 0:
        raise DataError(f"{file.name} is empty", hint="Fill the file or take it out of data.sources.")


def _lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Each line with its byte offset. A file whose line feeds are several bytes wide is read whole."""
    with file.open() as stream:
        if _is_wide(file.encoding):
            raw = stream.read()
            width = 2 if "16" in codecs.lookup(file.encoding).name else 4
            text = _decode(raw, file, at=0)
            form = f"utf-{8 * width}-le"
            at = len(raw) - len(text.encode(form))  # the byte order mark
            for line in text.split("\n"):
                yield at, line
                at += len(line.encode(form)) + width
            return
        at = 0
        for raw in stream:
            yield at, _decode(raw, file, at)
            at += len(raw)


def _json_document(line: str, file: SourceFile, number: int, at: int) -> Document:
    where = f"{file.name}, line {number} (byte {at})"
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}", hint="Write one JSON object a line.") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f"{where}: no text under the key 'text'", hint='Write lines such as {"text": "One document."}.'
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(
            f"{where}: half of a surrogate pair, which is no character",
            hint="Write the JSON again with ensure_ascii=False, or repair the text.",
        )
    metadata = record.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    return Document(id=f"{file.name}:{number}", text=text, source=file.name, metadata=known)


def _is_wide(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def _decode(raw: bytes, file: SourceFile, at: int) -> str:
    if not _is_wide(file.encoding) and (zero := raw.find(b"\0")) >= 0:
        raise DataError(
            f"{file.name} is binary: a zero byte at offset {at + zero}",
            hint="Take the file out of data.sources; if it is UTF-16, say encoding: utf-16.",
        )
    try:
        return raw.decode(file.encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} is not {file.encoding}: byte 0x{raw[error.start]:02x} at offset {at + error.start} "
            f"({error.reason})",
            hint="Give the source its true encoding (for example encoding: cp1252), or repair the file.",
        ) from None


def _local_files(project_dir: Path, source: Source) -> list[SourceFile]:
    path = Path(source.path)
    absolute = path if path.is_absolute() else project_dir / path
    if absolute.is_dir():
        paths = [found for found in absolute.rglob("*") if found.suffix.lower() in TEXT_SUFFIXES]
    elif _is_glob(source.path):
        anchor = Path(path.anchor) if path.is_absolute() else project_dir
        paths = list(anchor.glob(str(path.relative_to(path.anchor))))
    elif absolute.exists():
        paths = [absolute]
    else:
        raise DataError(
            f"data.sources: {absolute} does not exist",
            hint="Paths are relative to the project file; correct data.sources.",
        )
    for found in paths:
        if found.is_symlink() and not found.exists():
            raise DataError(f"{found} is a link that leads nowhere", hint="Mend the link or remove it.")
    files = [found for found in sorted(paths) if found.is_file() and not found.name.startswith(".")]
    return [SourceFile(found, _name(found, project_dir), source.encoding) for found in files]


def _name(path: Path, project_dir: Path) -> str:
    try:
        return path.relative_to(project_dir).as_posix()
    except ValueError:
        return path.as_posix()


def _remote_files(source: Source) -> list[SourceFile]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(source.path)
        if filesystem.isdir(path):
            paths = [name for name in filesystem.find(path) if name.lower().endswith(TEXT_SUFFIXES)]
        else:
            paths = filesystem.glob(path) if filesystem.exists(path) or _is_glob(path) else []
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"data.sources: {source.path} can't be listed: {error}",
            hint="Check the address and your access; some protocols need a package (s3fs, gcsfs, adlfs).",
        ) from None
    urls: list[Any] = [filesystem.unstrip_protocol(name) for name in sorted(paths)]
    return [SourceFile(url, url, source.encoding) for url in urls]


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")
