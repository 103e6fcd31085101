"""What every block is: a datatrove step that changes or drops a document at a time, and counts as it goes."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched
from loguru import logger

# datatrove tells every worker's standard error about every task; errors reach us as exceptions anyway.
logger.disable("datatrove")

EXAMPLES = 5
"""Changed and removed documents kept for the report, of each block."""
_EXAMPLES_OF_A_TASK = 2
_CLIP = 160
"""Characters of an example's text."""
LISTED = 100
"""Removed documents listed by name, of each block."""


@dataclass(frozen=True)
class Removed:
    """A document is dropped; `reason` is a short name that is counted, and stands at `at` in the text."""

    reason: str
    at: int = 0


@dataclass(frozen=True)
class Example:
    """A document that a block changed (the text around the first change) or removed (the text around the
    reason for it)."""

    id: str
    before: str
    after: str = ""
    reason: str = ""


@dataclass
class BlockCounts:
    """What one block did; characters are those of documents, `seconds` its own time summed over workers."""

    name: str
    seen: int = 0
    changed: int = 0
    removed: int = 0
    characters_in: int = 0
    characters_out: int = 0
    characters_removed: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Of the first removed documents."""

    def add(self, other: BlockCounts) -> None:
        """Add a later worker's counts of the same block."""
        for key in (
            "seen",
            "changed",
            "removed",
            "characters_in",
            "characters_out",
            "characters_removed",
            "seconds",
        ):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.reasons = dict(Counter(self.reasons) + Counter(other.reasons))
        self.found = dict(Counter(self.found) + Counter(other.found))
        self.names = (self.names + other.names)[:LISTED]
        for example in other.examples:
            self.keep(example)

    def keep(self, example: Example) -> None:
        """Keep an example unless there are enough of its sort."""
        if sum(bool(known.reason) == bool(example.reason) for known in self.examples) < EXAMPLES:
            self.examples.append(example)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BlockCounts:
        """The inverse of `dataclasses.asdict`."""
        examples = [Example(**example) for example in values["examples"]]
        return cls(**(values | {"examples": examples}))


class Block(PipelineStep):  # type: ignore[misc]
    """A block over single documents: `apply` is all that one adds."""

    type = "platen"
    batch = 1
    """Documents that `prepare` sees at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()
        self.counts = BlockCounts(name)
        self.show: Callable[[str], str] = str
        """What of a text may stand in the report."""

    def prepare(self, documents: Sequence[Document]) -> None:
        """Look at the next documents before each is applied: for what takes less time for many at once."""

    @abstractmethod
    def apply(self, document: Document) -> str | Removed:
        """The document's text as it goes on, or that it is dropped. May note things in its metadata."""

    def found(self, what: str, times: int = 1) -> None:
        """Count a finding by name."""
        self.counts.found[what] = self.counts.found.get(what, 0) + times

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass documents through; the counts are those of all that went through this object."""
        counts = self.counts
        for document in self._prepared(data):
            before = document.text
            began = time.perf_counter()
            result = self.apply(document)
            counts.seconds += time.perf_counter() - began
            counts.seen += 1
            counts.characters_in += len(before)
            if isinstance(result, Removed):
                counts.removed += 1
                counts.characters_removed += len(before)
                counts.reasons[result.reason] = counts.reasons.get(result.reason, 0) + 1
                if counts.removed <= LISTED:
                    counts.names.append(document.id)
                if counts.removed <= _EXAMPLES_OF_A_TASK:
                    shown = _around(self.show(before), result.at)
                    counts.keep(Example(document.id, shown, reason=result.reason))
                continue
            counts.characters_out += len(result)
            if result != before:
                counts.changed += 1
                if counts.changed <= _EXAMPLES_OF_A_TASK:
                    pair = _around_change(self.show(before), self.show(result))
                    counts.keep(Example(document.id, *pair))
                document.text = result
            yield document

    def _prepared(self, data: Iterable[Document]) -> Iterator[Document]:
        for documents in batched(data, self.batch):
            began = time.perf_counter()
            self.prepare(documents)
            self.counts.seconds += time.perf_counter() - began
            yield from documents


class Rules(Block):
    """A block that keeps a document as it is or drops it: `reason` is all that one adds."""

    def apply(self, document: Document) -> str | Removed:
        reason = self.reason(document.text)
        return Removed(reason) if reason else document.text

    @abstractmethod
    def reason(self, text: str) -> str | None:
        """Why a text is dropped, if it is."""


def _around_change(before: str, after: str) -> tuple[str, str]:
    """Both texts near the first place where they differ."""
    differ = (place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    first = next(differ, min(len(before), len(after)))
    return _around(before, first), _around(after, first)


def _around(text: str, place: int) -> str:
    """So much of a text as an example has, from a little before the place."""
    first = max(0, place - _CLIP // 4)
    return "…" * (first > 0) + text[first : first + _CLIP]
