"""The artifact of the stage `data`: documents as JSON lines, one file a split, and a report of what was
dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from platen.core.artifacts import sha256_file
from platen.core.errors import DataError

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(SplitName)


@dataclass(frozen=True)
class DataSplits:
    """The splits in a folder. A line is `{"id": …, "text": …, "source": …, "metadata": {…}}`."""

    folder: Path

    def path(self, split: str) -> Path:
        """The file of one split."""
        return self.folder / f"{split}.jsonl"

    @property
    def report(self) -> Path:
        """What was read, changed, dropped and kept, as JSON."""
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        """The same for people, where filters ran."""
        return self.folder / "data_report.html"

    @property
    def quarantine(self) -> Path:
        """What could not be read, as JSON lines."""
        return self.folder / "quarantine.jsonl"

    @property
    def complete(self) -> bool:
        """Whether the files of all splits are there."""
        return all(self.path(split).is_file() for split in SPLITS)

    def documents(self, split: str) -> Iterator[Mapping[str, Any]]:
        """The split's documents in order. Raises DataError with the line when one can't be read."""
        path = self.path(split)
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    yield _document(line, path, number)
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}", hint="platen run data") from None

    def sha256(self, split: str) -> str:
        """Of the split's file."""
        return sha256_file(self.path(split))


def _document(line: bytes, path: Path, number: int) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise DataError(f"{path}, line {number}: no document", hint="Remove the artifact: platen run data")
    return found
