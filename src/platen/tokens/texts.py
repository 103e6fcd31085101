"""The texts that tokenizers learn from and encode: prepared files, one text at a time, with a bar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from platen.core.errors import DataError
from platen.core.progress import Progress, Task

TEXT_SUFFIXES = (".txt", ".md", ".jsonl")
"""What is taken from a folder."""


def find_texts(paths: Iterable[Path]) -> list[Path]:
    """The files that are named, and those with texts in folders. Raises DataError for what is not there."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(f for f in path.rglob("*") if f.suffix in TEXT_SUFFIXES and f.is_file())
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"there is no {path}", hint="Give files or folders that are there.")
    if not found:
        raise DataError("there are no texts", hint=f"A folder gives its {', '.join(TEXT_SUFFIXES)} files.")
    return found


def read_texts(files: Iterable[Path], description: str, progress: Progress) -> Iterator[str]:
    """The texts of `files` in order: one a line of a `.jsonl` file (its `text`), else one a file.

    Raises DataError for what is no such file, or no UTF-8.
    """
    files = list(files)
    total = sum(file.stat().st_size for file in files)
    with progress.task(description, total=total, unit="B") as task:
        done = 0
        for file in files:
            yield from json_lines(file, task, done) if file.suffix == ".jsonl" else _whole(file)
            done += file.stat().st_size
            task.update(done)


def json_lines(file: Path, task: Task, done: int = 0) -> Iterator[str]:
    """The `text` of each line, moving `task` on from `done` by the bytes read. Raises DataError."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise DataError(
                    f"{file}, line {number}: not a JSON object with a text",
                    hint='Write lines such as {"text": "One document."}.',
                )
            yield text
            done += len(line)
            task.update(done)


def _whole(file: Path) -> Iterator[str]:
    try:
        yield file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {error.start}",
            hint="Convert it first, for example with iconv, or leave it out.",
        ) from None
