"""Finished pairs from files: JSON arrays and JSON lines, each record in one of the known shapes.

What can't be read is given back as a reject with its place and reason, so that nothing disappears.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platen.core.errors import DataError
from platen.data.instruct.config import InstructConfig, PairSource
from platen.data.instruct.shapes import Conversation, Shape, ShapeError, read_shape


@dataclass(frozen=True)
class Found:
    """A conversation and where it was; `place` is FILE:RECORD."""

    place: str
    shape: Shape
    messages: Conversation


@dataclass(frozen=True)
class Reject:
    """A record that is none, as a line of `quarantine.jsonl`."""

    place: str
    reason: str
    detail: str


def pair_files(project_dir: Path, config: InstructConfig) -> tuple[Path, ...]:
    """Every file that the stage reads. Raises DataError for a missing one."""
    files = [file for source in config.sources for file in _files(project_dir, source)]
    if config.acts.labels is not None:
        labels = project_dir / config.acts.labels
        if not labels.is_file():
            raise DataError(
                f"instruct.acts.labels: {labels} does not exist", hint="Export labels to it first."
            )
        files.append(labels)
    return tuple(dict.fromkeys(files))


def read_pairs(project_dir: Path, source: PairSource) -> Iterator[Found | Reject]:
    """The records of a source's files, in order."""
    for file in _files(project_dir, source):
        name = (
            file.relative_to(project_dir).as_posix() if file.is_relative_to(project_dir) else file.as_posix()
        )
        for number, record in _records(file, name):
            if isinstance(record, Reject):
                yield record
                continue
            try:
                shape, conversations = read_shape(record, source.shape)
            except ShapeError as error:
                yield Reject(f"{name}:{number}", str(error), json.dumps(record, ensure_ascii=False)[:500])
                continue
            for messages in conversations:
                yield Found(f"{name}:{number}", shape, messages)


def _records(file: Path, name: str) -> Iterator[tuple[int, object]]:
    """Records with their numbers from 1; what is no JSON as a Reject."""
    if file.suffix.lower() == ".json":
        try:
            records = json.loads(file.read_text("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            yield 1, Reject(name, f"not JSON: {error}", "")
            return
        yield from enumerate(records if isinstance(records, list) else [records], start=1)
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield (
                    number,
                    Reject(f"{name}:{number}", f"not JSON: {error}", line[:500].decode("utf-8", "replace")),
                )


def _files(project_dir: Path, source: PairSource) -> list[Path]:
    path = Path(source.path)
    anchor = Path(path.anchor) if path.is_absolute() else project_dir
    files = sorted(found for found in anchor.glob(str(path.relative_to(path.anchor))) if found.is_file())
    if not files:
        raise DataError(
            f"instruct.sources: {source.path} matches no file",
            hint="Paths are relative to the project file; correct instruct.sources.",
        )
    return files
