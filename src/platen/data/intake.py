"""Reads files and keeps account: what can't be read stops the run or goes to a quarantine file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from platen.core.errors import DataError
from platen.core.wording import counted
from platen.data.document import Broken, Document
from platen.data.readers.choose import read_records
from platen.data.readers.config import OnError, Source
from platen.data.sourcefile import SourceFile


@dataclass
class _Tally:
    documents: int = 0
    broken: int = 0
    first: Broken | None = None


@dataclass
class Intake:
    """One reading of a corpus. `quarantined` and `left_out` count by reason.

    The file `quarantine` is made when needed; without one what can't be read is only counted.
    """

    on_error: OnError
    quarantine: Path | None
    quarantined: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    _tallies: dict[Source, _Tally] = field(default_factory=dict)
    _out: IO[str] | None = None

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._out.close()

    def documents(self, file: SourceFile) -> Iterator[Document]:
        """The documents of a file. With `on_error: stop` raises DataError at the first that can't be read."""
        tally = self._tallies.setdefault(file.source, _Tally())
        for record in read_records(file):
            if isinstance(record, Document):
                tally.documents += 1
                yield record
            elif not isinstance(record, Broken):
                self.left_out[record.reason] += 1
            elif self.on_error == "stop":
                aside = "With data.on_error: quarantine it would be put aside."
                raise DataError(record.detail, hint=f"{record.hint} {aside}".strip())
            else:
                tally.broken += 1
                tally.first = tally.first or record
                self._put_aside(record)

    def check(self) -> None:
        """Raises DataError for a source of which nothing at all could be read."""
        for source, tally in self._tallies.items():
            if tally.first is not None and not tally.documents:
                raise DataError(
                    "nothing could be read from a source: "
                    f"{counted(tally.broken, 'broken record')}, the first: {tally.first.detail}",
                    hint=tally.first.hint or f"Leave {source.path.rpartition('@')[2]} out.",
                )

    def _put_aside(self, broken: Broken) -> None:
        self.quarantined[broken.reason] += 1
        if self.quarantine is None:
            return
        if self._out is None:
            self._out = self.quarantine.open("w", encoding="utf-8")
        entry = {"place": broken.place, "reason": broken.reason, "detail": broken.detail}
        # Names of files may hold bytes that are no UTF-8; they are escaped rather than lost.
        self._out.write(json.dumps(entry).encode("utf-8", "backslashreplace").decode() + "\n")
