"""What reading gives: documents, records that could not be read, and what was left out on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from platen.core.errors import DataError


@dataclass(frozen=True)
class Document:
    """A text as it was read. `id` is unique in a corpus; `source` is the file it came from.

    `metadata` is what else is known of it: JSON values only.
    """

    id: str
    text: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken:
    """A record that can't be read. `place` is the file and where in it, `reason` one word to count by,
    `detail` a sentence for people, `hint` what they may do."""

    place: str
    reason: str
    detail: str
    hint: str = ""

    def error(self) -> DataError:
        """The same as the error that ends a run."""
        return DataError(self.detail, hint=self.hint or None)


@dataclass(frozen=True)
class LeftOut:
    """A record that is fine but no document: a bot's message, a picture. Counted by `reason`."""

    place: str
    reason: str


Record = Document | Broken | LeftOut
